"""Which tile set a device gets: tiles that fit SM12x's 99 KiB of shared memory run everywhere, Hopper has its own."""

from __future__ import annotations

import functools
from typing import Literal

import torch

TileSet = Literal["sm12x", "sm90"]

SM12X_SHARED_BYTES = 101_376
"""Dynamic shared memory a block may use on SM120 and SM121."""


@functools.cache
def tile_set(device: torch.device) -> TileSet:
    """``sm90`` for Hopper and data-centre Blackwell (227 KiB a block), else ``sm12x`` (also for the interpreter)."""
    if device.type != "cuda":
        return "sm12x"
    return "sm90" if torch.cuda.get_device_capability(device)[0] in (9, 10) else "sm12x"


@functools.cache
def num_sms(device: torch.device) -> int:
    """Multiprocessors of the device; 188 (RTX PRO 6000) where there is none, so that the interpreter splits alike."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 188
