"""What a target is, and what it gives a gate once it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ds4bench.core import Fingerprint
from ds4bench.targets.dialect import Dialect

Report = Callable[[str], None]
"""Receives one line about what a target is doing."""


@dataclass(frozen=True)
class Endpoint:
    """A serve that answers: where it is, how it is spoken to, who it is. ``headers`` may hold a key: never shown."""

    base_url: str
    model: str
    dialect: Dialect
    fingerprint: Fingerprint
    max_model_len: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Target(Protocol):
    """The life of a serve."""

    name: str

    async def start(self, report: Report) -> Endpoint:
        """Make the serve answer. Ready means that a token came back. Raises TargetError with the reason and a hint."""
        ...

    def alive(self) -> bool:
        """Whether the serve's process runs, as far as that can be known from here."""
        ...

    def death_note(self) -> str | None:
        """How the serve ended, in one line; None while it runs or when that cannot be known."""
        ...

    async def stop(self) -> None:
        """Stop what ``start`` started, and nothing else. May be called at any time, more than once."""
        ...
