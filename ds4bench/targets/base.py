"""What every target offers: a life cycle, and the endpoint that answers while it lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ds4bench.core import Fingerprint
from ds4bench.targets.dialect import Dialect
from ds4bench.targets.kernels import KernelWatch
from ds4bench.targets.pacing import Pacing

Report = Callable[[str], None]
"""Takes one line for a person: what is being waited for."""


@dataclass(frozen=True)
class Endpoint:
    """A serve from which a token has come back.

    ``headers`` may hold a key, so they never appear in the ``repr``. ``max_model_len`` counts prompt and reply
    tokens together; None when the serve does not tell. ``pacing`` is the budget of a serve that costs money, ``kernels``
    those that it was launched with.
    """

    base_url: str
    model: str
    dialect: Dialect
    fingerprint: Fingerprint
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_model_len: int | None = None
    pacing: Pacing | None = field(default=None, repr=False)
    kernels: KernelWatch | None = None


class Target(Protocol):
    """One serve, from launch to stop. ``start`` raises TargetError when no token ever comes back."""

    @property
    def name(self) -> str:
        """The word after ``--target``."""

    async def start(self, report: Report) -> Endpoint:
        """Bring the serve up. Ready means that a real completion gave a token, not that a port is open."""

    def alive(self) -> bool:
        """Whether the serve's process still runs; for a serve that somebody else started: whether it may."""

    @property
    def pid(self) -> int | None:
        """Process id of a serve that this target launched; None if it is not ours."""

    def death_note(self) -> str | None:
        """How the process ended and its last words; None while it runs, or if it is not ours to know."""

    async def stop(self) -> None:
        """Give back everything that ``start`` took. Safe to call twice, and after a failed ``start``."""
