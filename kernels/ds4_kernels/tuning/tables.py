"""Tile tables of the block-FP8 GEMM: device name -> table -> (N, K) -> nearest M -> tile. No torch, no Triton.

A table is a JSON file of this folder. Its entries read ``64/128/128 g16 w4 s3``: block sizes of M (tokens), N and K,
``g`` block rows that share a column of weight tiles in the L2 cache, ``w`` warps, ``s`` pipeline stages; ``swap`` after
them puts the weights on the row side of the MMA (Hopper's wgmma has 64 rows or more, decode has few tokens). A K block
over 128 is that many scale blocks a pipeline step: fewer barriers, where shared memory allows it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Shape = tuple[int, int]
Table = Mapping[Shape, Mapping[int, "Tile"]]

WORKSTATION = "RTX_PRO_6000_Blackwell_Workstation_Edition"
GB10 = "GB10"
H200 = "NVIDIA_H200"
DEFAULT = "default"

_ENOUGH_PROGRAMS = 100
"""Of 132 multiprocessors, with one program each."""

_ENTRY = re.compile(r"(\d+)/(\d+)/(\d+) g(\d+) w(\d+) s(\d+)( swap)?")

_ALIASES = {
    "RTX_PRO_6000_Blackwell_Workstation_Edition": WORKSTATION,
    "RTX_PRO_6000_Blackwell_Server_Edition": WORKSTATION,
    "RTX_PRO_6000_Blackwell_Max-Q_Workstation_Edition": WORKSTATION,
    "GeForce_RTX_5090": WORKSTATION,
    "RTX_5090": WORKSTATION,
    "GB10": GB10,
    "H200": H200,
    "H200_NVL": H200,
    "H100_80GB_HBM3": H200,
    "H100_PCIe": H200,
    "H100_NVL": H200,
    "GH200_480GB": H200,
}
_NOT_TUNED_HERE = frozenset({"GeForce_RTX_5090", "RTX_5090", "H100_80GB_HBM3", "H100_PCIe", "H100_NVL", "GH200_480GB"})


@dataclass(frozen=True)
class Tile:
    """One launch configuration. ``block_m`` counts tokens and ``block_n`` weight rows, also with ``swap``."""

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int
    swap: bool = False

    @classmethod
    def parse(cls, entry: str) -> Tile:
        """From a table entry. Raises ValueError for any other text."""
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"not a tile entry: {entry!r} (expected e.g. '64/128/128 g16 w4 s3')")
        m, n, k, group_m, warps, stages = (int(number) for number in match.groups()[:6])
        return cls(m, n, k, group_m, warps, stages, swap=match[7] is not None)

    def __str__(self) -> str:
        blocks = f"{self.block_m}/{self.block_n}/{self.block_k}"
        return f"{blocks} g{self.group_m} w{self.num_warps} s{self.num_stages}{' swap' if self.swap else ''}"

    @property
    def compiled_key(self) -> tuple[int, int, int, int, int, bool]:
        """What a compiled kernel depends on: ``group_m`` is an argument at run time."""
        return (self.block_m, self.block_n, self.block_k, self.num_warps, self.num_stages, self.swap)


@dataclass(frozen=True)
class Resolution:
    """The table for a device (``default``: none, only tiles that fit 99 KiB) and, where it is a stand-in, why."""

    table: str
    note: str | None = None


def resolve_device(device_name: str) -> Resolution:
    """The table of a device by the name that the driver reports, e.g. ``NVIDIA GB10``; unknown names get ``default``."""
    key = "_".join(device_name.split()).removeprefix("NVIDIA_")
    table = _ALIASES.get(key)
    if table is None:
        return Resolution(DEFAULT, f"no tile table for {device_name!r}: tiles that fit 99 KiB of shared memory")
    if key in _NOT_TUNED_HERE:
        return Resolution(table, f"{device_name}: tiles of {table}, nobody timed them on this device")
    return Resolution(table)


def table_names() -> list[str]:
    """Names of the tables that exist, one JSON file each."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.json"))


@functools.cache
def load_table(name: str) -> Table:
    """``{(N, K): {M: tile}}`` of one table. Raises ValueError when an (N, K, M) is listed twice."""
    document = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    table: dict[Shape, dict[int, Tile]] = {}
    for section in ("tuned", "defaults"):
        for shape, rows in document.get(section, {}).get("shapes", {}).items():
            n, k = (int(number) for number in shape.split(","))
            by_tokens = table.setdefault((n, k), {})
            for tokens, entry in rows.items():
                if int(tokens) in by_tokens:
                    raise ValueError(f"{name}: M={tokens} of shape {shape} is listed twice")
                by_tokens[int(tokens)] = Tile.parse(entry)
    return MappingProxyType(table)


def nearest(rows: Mapping[int, Tile], m: int) -> Tile:
    """The tile of the M nearest to ``m``; of two equally near ones the smaller M."""
    return rows[min(rows, key=lambda listed: (abs(listed - m), listed))]


@functools.lru_cache(maxsize=4096)
def select_tile(device_name: str, m: int, n: int, k: int) -> Tile:
    """The tile for ``[m, k] x [n, k]`` on a device: its table's nearest M, or a default for a shape that it lacks."""
    name = resolve_device(device_name).table
    rows = {} if name == DEFAULT else load_table(name).get((n, k), {})
    if rows:
        return nearest(rows, m)
    return hopper_default(m, n) if name == H200 else sm12x_default(m, n)


_SM12X_DEFAULTS = {
    entry: Tile.parse(entry)
    for entry in (
        "16/32/128 g1 w4 s4",
        "16/64/128 g1 w4 s4",
        "32/64/128 g1 w4 s3",
        "64/64/128 g8 w4 s3",
        "128/128/128 g8 w8 s3",
    )
}
_HOPPER_DEFAULTS = {
    entry: Tile.parse(entry)
    for entry in (
        "16/64/512 g1 w4 s3 swap",
        "32/64/512 g1 w4 s3 swap",
        "64/64/512 g1 w4 s3",
        "64/64/512 g8 w4 s3",
        "128/128/256 g8 w8 s3",
        "128/256/128 g8 w8 s4",
    )
}


def sm12x_default(m: int, n: int) -> Tile:
    """A tile for any shape that fits 99 KiB of shared memory and 64 KiB of registers."""
    if m <= 16:
        entry = "16/32/128 g1 w4 s4" if n <= 4096 else "16/64/128 g1 w4 s4"
    elif m <= 48:
        entry = "32/64/128 g1 w4 s3"
    else:
        entry = "64/64/128 g8 w4 s3" if m <= 1024 else "128/128/128 g8 w8 s3"
    return _SM12X_DEFAULTS[entry]


def hopper_default(m: int, n: int) -> Tile:
    """A tile for any shape on Hopper: enough programs for its 132 multiprocessors, then the largest tile."""
    if m <= 16:
        entry = "16/64/512 g1 w4 s3 swap"
    elif m <= 64:
        entry = "32/64/512 g1 w4 s3 swap" if m <= 32 else "64/64/512 g1 w4 s3"
    elif _programs(m, 128, n, 256) >= _ENOUGH_PROGRAMS:
        entry = "128/256/128 g8 w8 s4"
    else:
        entry = "128/128/256 g8 w8 s3" if _programs(m, 128, n, 128) >= _ENOUGH_PROGRAMS else "64/64/512 g8 w4 s3"
    return _HOPPER_DEFAULTS[entry]


def default_tiles() -> dict[Literal["sm12x", "sm90"], list[Tile]]:
    """The tiles that the two default functions choose from, by tile set."""
    return {"sm12x": list(_SM12X_DEFAULTS.values()), "sm90": list(_HOPPER_DEFAULTS.values())}


def _programs(m: int, block_m: int, n: int, block_n: int) -> int:
    return -(-m // block_m) * -(-n // block_n)
