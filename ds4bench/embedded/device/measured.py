"""A place where a profiler can stand around work that is no op of ``ds4_kernels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Timer = Callable[..., Any]
"""``timer(name, function, *args, **kwargs)`` runs the function and returns its result."""

_timers: list[Timer] = []


def measured(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, timed as ``name`` while a profiler is active."""
    return _timers[-1](name, function, *args) if _timers else function(*args)


def push(timer: Timer) -> None:
    """Let ``timer`` run what is measured from now on."""
    _timers.append(timer)


def pop() -> None:
    """Undo the last ``push``."""
    _timers.pop()
