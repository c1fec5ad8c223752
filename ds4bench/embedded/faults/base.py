"""What a fault is, and what it may change: a built serve that has not started yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds4bench.embedded.config import EngineConfig
    from ds4bench.embedded.engine import Engine
    from ds4bench.embedded.runner import ModelRunner
    from ds4bench.embedded.server import ChatFormat


class FaultError(ValueError):
    """A fault that does not exist, has a wrong argument, or could do nothing in the serve that it is asked for."""


@dataclass(frozen=True)
class Serve:
    """The parts of a serve that faults replace."""

    runner: ModelRunner
    engine: Engine
    chat: ChatFormat


@dataclass(frozen=True)
class Argument:
    """The number behind a fault's colon: ``pattern`` matches its text, with the number as the only group.

    ``form`` and ``example`` are for a person; without a ``default`` the argument must be given.
    """

    form: str
    pattern: str
    example: str
    default: float | None = None


Install = Callable[[Serve, float], None]
"""Changes a serve, given the fault's argument (0 if it has none). Runs once, in the engine's thread."""

Need = Callable[["EngineConfig", float], str | None]
"""What the serve lacks for a fault with this argument to change anything, as a person reads it; None: nothing."""


@dataclass(frozen=True)
class Fault:
    """One fault. ``summary`` says what goes wrong, and from when on."""

    name: str
    summary: str
    install: Install
    argument: Argument | None = None
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """A fault that was asked for; ``text`` is how ``/version`` names it."""

    fault: Fault
    amount: float
    text: str


def wrap(owner: object, method: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace one object's method by ``make(method)``."""
    setattr(owner, method, make(getattr(owner, method)))
