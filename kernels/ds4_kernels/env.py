"""The environment variables that choose kernels: one meaning for ``ds4_kernels.ops`` and for the engine plugins.

| variable | meaning |
|---|---|
| ``DS4_KERNELS`` | ``auto`` (default): Triton for CUDA tensors, and in an engine only on SM12x; ``off``: the reference, and in an engine nothing is replaced; ``force``: as auto, in an engine on any CUDA GPU; ``reference``, ``triton``: that backend, in an engine too |
| ``DS4_KERNELS_OPS`` | comma list of groups and op names. Outside of an engine the others run on the reference, in an engine they keep the engine's own kernel |
| ``DS4_KERNELS_STRICT`` | 1: what would step back with one line raises |
| ``DS4_KERNELS_REPORT`` | folder in which every process with the plugin keeps a JSON file |
| ``DS4_KERNELS_SHADOW`` | 1: an engine's op and ours both run, the difference is recorded, the engine's result is used |
| ``DS4_KERNELS_PDL`` | 0: every kernel starts when the one before it has ended (see ``triton/dependent.py``) |
| ``DS4_KERNELS_SABOTAGE`` | ``op:scale`` list. Makes ops wrong on purpose, to test that attribution names them. Never set it in service |
"""  # noqa: E501

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODES = ("auto", "off", "force", "reference", "triton")
MODE, OPS, STRICT = "DS4_KERNELS", "DS4_KERNELS_OPS", "DS4_KERNELS_STRICT"
REPORT, SHADOW, SABOTAGE = "DS4_KERNELS_REPORT", "DS4_KERNELS_SHADOW", "DS4_KERNELS_SABOTAGE"
DEPENDENT = "DS4_KERNELS_PDL"


@dataclass(frozen=True)
class Settings:
    """What the variables say. ``sabotage`` is the factor by op name; ``ops`` the text of DS4_KERNELS_OPS."""

    mode: str = "auto"
    ops: str | None = None
    strict: bool = False
    shadow: bool = False
    report: Path | None = None
    sabotage: Mapping[str, float] | None = None


def read() -> Settings:
    """Read all of them. Raises ValueError with the variable's name for a bad value."""
    return Settings(mode(), selection(), flag(STRICT), flag(SHADOW), report_folder(), sabotage() or None)


def mode() -> str:
    """DS4_KERNELS. Raises ValueError for a word that is not a mode."""
    value = os.environ.get(MODE) or "auto"
    if value not in MODES:
        raise ValueError(f"{MODE} is {value!r}; allowed: {', '.join(MODES)}")
    return value


def selection() -> str | None:
    """DS4_KERNELS_OPS as it stands; None when unset."""
    return os.environ.get(OPS)


def report_folder() -> Path | None:
    """DS4_KERNELS_REPORT; None when unset or empty."""
    folder = os.environ.get(REPORT)
    return Path(folder) if folder else None


def flag(name: str, unset: bool = False) -> bool:
    """A switch: 0 is off, 1 is on, ``unset`` where it is unset or empty. Raises ValueError for anything else."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} is {value!r}; allowed: 0, 1")
    return value == "1" if value else unset


def sabotage() -> dict[str, float]:
    """DS4_KERNELS_SABOTAGE: factor by op name. Raises ValueError for what is not ``op:scale``."""
    found: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in os.environ.get(SABOTAGE, "").split(","))):
        name, _, scale = part.partition(":")
        try:
            found[name] = float(scale)
        except ValueError:
            raise ValueError(f"{SABOTAGE} has {part!r}; write op:scale, for example mhc_post:1.5") from None
    return found
