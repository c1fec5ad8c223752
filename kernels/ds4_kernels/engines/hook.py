"""What a hook is: one engine function, what replaces it, and how it may decline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Declined:
    """What a replacement returns instead of a result when the engine's own op must run."""

    reason: str


def decline(reason: str) -> Declined:
    """``return decline("page size 128")``: the engine's op runs on the same arguments. Decide before writing anything."""
    return Declined(reason)


@dataclass(frozen=True)
class Hook:
    """One replaced function of one engine version.

    ``op`` is a row of ``ops.TABLE``: DS4_KERNELS_OPS, DS4_KERNELS_SABOTAGE and the report go by it. ``target`` is
    ``module:function`` or ``module:Class.method``; ``parameters`` are the expected names of its signature, in order.
    ``factory(original)`` gives the replacement, called with the same arguments; it may return ``decline(reason)``.

    ``writes`` names the arguments that the op changes in place (also those of a ``**kwargs``): shadow mode gives our op
    clones of them.
    ``outputs`` are what shadow mode compares and sabotage scales: by default the tensors of the result, then those of
    ``writes``. ``comparable(arguments, outputs)`` may cut away what the op's contract leaves undefined; it is called with
    the outputs of either side and returns what is compared, as many tensors for both.
    ``everywhere``: replace also what other modules of the engine imported by value; False binds this one name alone.
    ``shadow=False``: a choice, not an op (a class selector): shadow mode leaves it to the engine.
    """

    op: str
    target: str
    parameters: tuple[str, ...]
    factory: Callable[[Function], Function]
    writes: tuple[str, ...] = ()
    comparable: Callable[[Mapping[str, Any], tuple[Tensor, ...]], Sequence[Tensor]] | None = None
    everywhere: bool = True
    shadow: bool = True

    @property
    def name(self) -> str:
        """``op@function``: unique in a table, for messages and the report."""
        return f"{self.op}@{self.target.rpartition(':')[2]}"


Table = Mapping[str, Sequence[Hook]]
"""Hooks by engine version (the release, without a local part such as +cu130)."""
