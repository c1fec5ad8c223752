"""Pointwise functions that ``torch.compile`` may fuse; everything else of the training model stays eager.

Only such small functions are compiled: that takes seconds, where whole layers would take minutes for each sequence
length. A dimension that turns out to vary is compiled anew, as a symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_REGISTERED: list[Hot] = []
_VARIANTS = 64
"""Of one function: dtypes, ranks and whether a gradient is wanted."""


class Hot:
    """A function of tensors that runs as written until ``compile_all`` has found that its compiled form works."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.eager = function
        self._run = function
        _REGISTERED.append(self)

    def __call__(self, *args: Any) -> Any:
        """Call the function, compiled or not."""
        return self._run(*args)

    def compile(self) -> None:
        """Compile at the next call."""
        self._run = torch.compile(self.eager)

    def restore(self) -> None:
        """Run as written again."""
        self._run = self.eager


def compile_all(probe: Callable[[], None]) -> str | None:
    """Compile every hot function and run ``probe`` with them; on an error all stay eager and its text is returned."""
    torch._dynamo.config.recompile_limit = _VARIANTS
    for item in _REGISTERED:
        item.compile()
    try:
        probe()
    except Exception as error:  # any failure of the compiler: training goes on without it
        for item in _REGISTERED:
            item.restore()
        return f"{type(error).__name__}: {error}"[:400]
    return None
