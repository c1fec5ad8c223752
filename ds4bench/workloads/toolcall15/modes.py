"""Thinking modes: how they are asked for. Whether they took effect is checked in ``verdicts/checks/mode.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ds4bench.errors import WorkloadError


@dataclass(frozen=True)
class Mode:
    """A thinking mode. ``effort`` only goes with thinking."""

    name: str
    thinking: bool
    effort: Literal["high", "max"] | None = None

    def body(self, dialect: str | None) -> dict[str, Any]:
        """The request fields that ask for the mode.

        ``dialect`` is ``targets.dialect.Dialect.thinking``: ``chat_template_kwargs`` (vLLM, SGLang: engines differ in
        where they read the effort, so it stands in both places), ``body`` (the hosted API), or None for a serve that
        has no known switch and gets nothing; the check ``mode_effective`` then tells what it did.
        """
        effort = {"reasoning_effort": self.effort} if self.effort is not None else {}
        if dialect == "chat_template_kwargs":
            return {**effort, "chat_template_kwargs": {"thinking": self.thinking, **effort}}
        if dialect == "body":
            return {**effort, "thinking": {"type": "enabled" if self.thinking else "disabled"}}
        return {}


MODES = {
    mode.name: mode
    for mode in (Mode("non-thinking", False), Mode("think-high", True, "high"), Mode("think-max", True, "max"))
}


def mode_of(name: str) -> Mode:
    """The mode of that name. Raises WorkloadError with the known ones."""
    if name not in MODES:
        raise WorkloadError(f"no thinking mode {name!r}; known: {', '.join(MODES)}")
    return MODES[name]
