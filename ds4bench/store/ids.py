"""Names of what a person starts: they sort by time and never meet."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def new_id(*words: str) -> str:
    """``20261121-031500-WORDS-ab12``, the time in UTC."""
    return "-".join([f"{datetime.now(UTC):%Y%m%d-%H%M%S}", *words, secrets.token_hex(2)])
