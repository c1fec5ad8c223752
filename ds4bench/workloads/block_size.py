"""The block size of a serve's prefix cache, and who says so."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ds4bench.client.control import ControlClient

DEFAULT = 256
"""The cache block of DeepSeek-V4 in vLLM and SGLang, and of the embedded engine."""
_LABEL = re.compile(r'^\w+:cache_config_info\{[^}]*\bblock_size="(\d+)"', re.MULTILINE)


class BlockSize(NamedTuple):
    """Tokens of a block, and where that was learnt: ``option``, ``/metrics``, ``/version``, ``/server_info``, ``default``."""

    tokens: int
    source: str


async def learn_block_size(control: ControlClient, given: int | None) -> BlockSize:
    """What the gate says, else what the serve says, else 256."""
    if given is not None:
        return BlockSize(given, "option")
    if (found := _LABEL.search(await control.metrics_text() or "")) and int(found[1]) > 0:
        return BlockSize(int(found[1]), "/metrics")
    for page, keys in (("/version", ("flags", "block_size")), ("/server_info", ("page_size",))):
        tokens = _at(await control.get_json(page), keys)
        if isinstance(tokens, int) and tokens > 0:
            return BlockSize(tokens, page)
    return BlockSize(DEFAULT, "default")


def _at(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
