"""Times tile variants of the attention and logits kernels on this GPU: how the tiles in ``ds4_kernels.triton`` were chosen.

python kernels/benchmarks/tile_sweep.py [decode|prefill|hopper|ragged|paged ...]
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from ds4_kernels import bench, ops
from ds4_kernels.cases import registry
from ds4_kernels.cases.base import BenchCase
from ds4_kernels.triton import mqa, sparse_attention
from ds4_kernels.triton.arch import tile_set

DEVICE = torch.device("cuda")
Tile = dict[str, int]


def attention(*shapes: tuple[int, int, int], **more: int) -> list[Tile]:
    return [{"BLOCK_H": h, "BLOCK_C": c, "num_warps": w, "num_stages": 1, **more} for h, c, w in shapes]


def ragged(*shapes: tuple[int, int, int, int]) -> list[Tile]:
    return [{"BLOCK_N": n, "PER_DOT": p, "num_warps": w, "num_stages": s} for n, p, w, s in shapes]


SWEEPS: dict[str, tuple[str, dict[str, Tile], list[Tile]]] = {
    "decode": (
        "sparse_attention_decode",
        sparse_attention._DECODE_TILES,
        attention((32, 16, 8), (32, 16, 4), (16, 32, 4), (16, 32, 8), (16, 16, 4), (16, 64, 8), (64, 32, 8)),
    ),
    "prefill": (
        "sparse_attention_prefill",
        sparse_attention._PREFILL_TILES,
        attention((32, 32, 8), (32, 16, 8), (32, 32, 4), (64, 32, 8), STAGES=3),
    ),
    "ragged": (
        "mqa_logits_ragged",
        mqa._RAGGED_TILES,
        ragged((128, 1, 4, 3), (128, 2, 4, 3), (128, 1, 8, 3), (128, 2, 8, 3), (256, 1, 8, 3), (128, 2, 4, 4)),
    ),
    "paged": (
        "mqa_logits_paged",
        mqa._PAGED_TILES,
        [{"BLOCK_N": n, "num_warps": w} for n in (64, 128, 256) for w in (4, 8)],
    ),
}


def time_tile(case: BenchCase, tile: Tile) -> str:
    kernel = ops.implementation(case.op, "triton")
    sets = bench.input_sets(case, DEVICE, seed=1)
    try:
        time_us, _ = bench.graph_us([partial(kernel, **inputs) for inputs in sets])
    except Exception as error:  # a tile that does not fit is a result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return f"{time_us:9.1f} us {case.flops / time_us / 1e6:7.1f} TFLOP/s {case.moved / time_us / 1e6:5.2f} TB/s"


def sweep(op: str, table: dict[str, Any], tiles: list[Tile]) -> None:
    for case in registry.bench_cases([op]):
        for tile in tiles:
            table[tile_set(DEVICE)] = tile
            print(f"{op} {case.label} {tile} {time_tile(case, tile)}", flush=True)


if __name__ == "__main__":
    # Hopper's own kernels would take over where there are many heads; a sweep is of the tiles that every GPU runs.
    sparse_attention.HOPPER_HEADS = 1 << 30
    sparse_attention.FEW_TOKENS = 0
    for name in sys.argv[1:] or list(SWEEPS):
        sweep(*SWEEPS[name])
