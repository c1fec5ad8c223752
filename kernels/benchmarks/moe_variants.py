"""Times variants of the MXFP4 decode path on this GPU, each checked first; why they are what they are: docs/moe.md.

python kernels/benchmarks/moe_variants.py [--tokens 1,4,16,32,64,128] [--only fused,merged] [--no-parts]

A call is timed by replays of one CUDA graph of several calls. All use the same 256 experts with other ids, so that the
weights of a call (80 MB for one token) are not in the cache. "alone" is a graph of one kernel of each call.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
from ds4_kernels import bench
from ds4_kernels.cases import mxfp4_moe as cases
from ds4_kernels.compare import compare
from ds4_kernels.reference import mxfp4_moe as reference
from ds4_kernels.triton import mxfp4_decode, mxfp4_grouped
from ds4_kernels.triton import mxfp4_values as values
from ds4_kernels.triton.mxfp4_decode import Config, Tile
from torch import Tensor

Inputs = dict[str, Any]
Run = Callable[[Inputs, Tensor], None]

EXPERT_BYTES = 3 * cases.DIM * cases.INTER // 2 + 3 * cases.DIM * cases.INTER // 32
FEW_TOKENS = 4
COMPILE_WORKERS = 12
SMALL = ((1, 256, "random"), (3, 128, "none"), (4, 384, "holes"), (16, 256, "one"), (64, 256, "one"))


@dataclass(frozen=True)
class Variant:
    """A way to run the op and the numbers of tokens it is timed at."""

    name: str
    run: Run
    tokens: tuple[int, ...]


def both(tile: Tile, merge: bool, fused: bool) -> Config:
    return Config(tile, tile, merge, fused)


def rows(config: Config | None, inputs: Inputs, out: Tensor) -> None:
    mxfp4_decode.experts(*arguments(inputs, "int32"), out, config)


def grouped(inputs: Inputs, out: Tensor) -> None:
    x, *rest = arguments(inputs, "bytes")
    mxfp4_grouped.experts(values.input_planes(x, inputs["mode"] == "w4a8"), *rest, out)


def arguments(inputs: Inputs, scales: str) -> tuple[Any, ...]:
    s13, s2 = (inputs[name].view(torch.int32) if scales == "int32" else inputs[name] for name in ("s13", "s2"))
    return (
        inputs["x"], inputs["topk_ids"], inputs["topk_weights"], inputs["w13"].view(torch.int16), s13,
        inputs["w2"].view(torch.int16), s2, inputs["limit"], inputs["mode"] == "w4a8",
    )  # fmt: skip


def variants() -> list[Variant]:
    """Every candidate; the first of each kind is what ``mxfp4_moe`` takes."""
    few, many, most = (1, 4), (16, 32, 64), (16, 32, 64, 128, 256)
    found = [Variant("grouped (shared memory)", grouped, (64, 128, 256))]
    shipped = mxfp4_decode._FEW, mxfp4_decode._MANY
    found += [Variant("shipped: fused, three kernels", partial(rows, shipped[0]), few)]
    found += [Variant("shipped: merged, five kernels", partial(rows, shipped[1]), most)]
    found += [Variant("five kernels, alone", partial(rows, both(shipped[0].w13, False, False)), few)]
    for tile in (Tile(16, 4, False), Tile(16, 4, True), Tile(32, 1, True), Tile(32, 2, False)):
        found.append(Variant(f"fused {text(tile)}", partial(rows, both(tile, False, True)), few))
    for tile in (Tile(16, 4, False), Tile(32, 1, True), Tile(64, 1, False), Tile(16, 2, True)):
        found.append(Variant(f"merged {text(tile)}", partial(rows, both(tile, True, False)), many))
    return found


def text(tile: Tile) -> str:
    return f"m{tile.block_m} u{tile.unroll}{' ahead' if tile.ahead else ''}"


def real_inputs(device: torch.device) -> Inputs:
    """The weights of one layer of V4-Flash, random bytes."""
    return cases.moe_build(1, cases.DIM, cases.INTER, cases.EXPERTS, cases.TOPK, "random", "w4a8", None)(
        torch.Generator().manual_seed(1), device
    )


def with_tokens(weights: Inputs, tokens: int, seed: int, holes: bool = False) -> Inputs:
    """The same weights with fresh tokens and ids; holes: a third of the ids is no expert."""
    generator, device, E = torch.Generator().manual_seed(seed), weights["w13"].device, weights["w13"].shape[0]
    x = torch.randn(tokens, weights["x"].shape[1], generator=generator).to(torch.bfloat16).to(device)
    ids = torch.rand(tokens, E, generator=generator).topk(min(E, cases.TOPK), dim=1).indices.to(torch.int32).to(device)
    routing = torch.rand(ids.shape, generator=generator).to(device) + 0.1
    if holes:
        gone = (torch.rand(ids.shape, generator=generator) < 1 / 3).to(device)
        ids[gone], routing[gone] = -1, float("nan")
    return weights | {"x": x, "topk_ids": ids, "topk_weights": routing}


def moved_bytes(sets: list[Inputs]) -> float:
    """Weight bytes a call must read: of every expert that a token of it chose."""
    experts = [len(set(inputs["topk_ids"].flatten().tolist()) - {-1}) for inputs in sets]
    return sum(experts) / len(experts) * EXPERT_BYTES


def check(variant: Variant, inputs: Inputs, expected: Tensor, label: str) -> str | None:
    """What is wrong: the difference from the reference, a value not written, or two runs that differ."""
    outs = [torch.full_like(inputs["x"], float("nan")) for _ in range(2)]
    try:
        for out in outs:
            variant.run(inputs, out)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{variant.name} {label}: {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    verdict = compare(outs[0], expected, cases._CLOSE[0])
    if not verdict.ok:
        return f"{variant.name} {label}: error {verdict.error:.3g} {verdict.note}"
    return None if torch.equal(outs[0], outs[1]) else f"{variant.name} {label}: two runs differ"


def check_all(chosen: list[Variant], weights: Inputs, tokens: list[int], device: torch.device) -> list[str]:
    """Real sizes for every variant; small sizes (one unit of k) for those that ``mxfp4_moe`` takes."""
    problems = []
    for count, holes in [(count, holes) for count in tokens for holes in (False, True)]:
        inputs = with_tokens(weights, count, 90 + count, holes)
        expected = reference.mxfp4_moe(**inputs)
        label = f"T={count}{' holes' if holes else ''}"
        problems += [check(variant, inputs, expected, label) for variant in chosen if count in variant.tokens]
    for count, dim, routing in SMALL:
        inputs = cases.moe_build(count, dim, 128, 9, 3, routing, "w4a8", None)(torch.Generator().manual_seed(7), device)
        expected = reference.mxfp4_moe(**inputs)
        small = [v for v in chosen if v.name.startswith("shipped") and (count <= FEW_TOKENS) == (1 in v.tokens)]
        problems += [check(v, inputs, expected, f"small T={count} D={dim} {routing}") for v in small]
    return [problem for problem in problems if problem]


class _Recorder:
    """Stands for a kernel: launches it and keeps how."""

    def __init__(self, kernel: Any, log: list[Any]) -> None:
        self.kernel, self.log = kernel, log

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            self.log.append((self.kernel, grid, args, options))
            self.kernel[grid](*args, **options)

        return launch


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """A list that gets (kernel, grid, arguments, options) of every launch of the variants' kernels."""
    log: list[Any] = []
    before = [
        (module, name, getattr(module, name))
        for module in (mxfp4_decode, mxfp4_grouped, values, sys.modules[__name__])
        for name in dir(module)
        if isinstance(getattr(module, name), triton.JITFunction) and name.endswith("_kernel")
    ]
    wrapped = {id(kernel): _Recorder(kernel, log) for _, _, kernel in before}
    try:
        for module, name, kernel in before:
            setattr(module, name, wrapped[id(kernel)])
        yield log
    finally:
        for module, name, kernel in before:
            setattr(module, name, kernel)


def alone_us(variant: Variant, sets: list[Inputs], outs: list[Tensor]) -> list[tuple[str, float]]:
    """Microseconds of each kernel of a call by itself.

    A fused kernel's counters are full after its first replay: what its last program does is then not timed.
    """
    launches = []
    for inputs, out in zip(sets, outs, strict=True):
        with recorded() as log:
            variant.run(inputs, out)
        launches.append(log)
    found = []
    for step in range(len(launches[0])):
        calls: list[Callable[[], Any]] = [partial(relaunch, *launch[step]) for launch in launches]
        found.append((launches[0][step][0].fn.__name__.strip("_").removesuffix("_kernel"), bench.graph_us(calls)[0]))
    return found


def relaunch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    kernel[grid](*args, **options)


def time_variant(variant: Variant, sets: list[Inputs], copy_tb_s: float, parts: bool) -> str:
    outs = [torch.empty_like(inputs["x"]) for inputs in sets]
    moved = moved_bytes(sets)
    try:
        calls: list[Callable[[], Any]] = [
            partial(variant.run, inputs, out) for inputs, out in zip(sets, outs, strict=True)
        ]
        time_us, spread = bench.graph_us(calls)
        single_us = bench.graph_us(calls[:1])[0]
        alone = alone_us(variant, sets, outs) if parts else []
    except Exception as error:
        return f"{variant.name:34} {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
    rate = moved / time_us / 1e6
    pieces = "  ".join(f"{name} {us:.1f}" for name, us in alone)
    line = (
        f"{variant.name:34} {time_us:8.1f} us +-{100 * spread:2.0f} %  {rate:5.2f} TB/s {100 * rate / copy_tb_s:3.0f} %"
    )
    return f"{line}  1-call {single_us:7.1f}  {pieces}"


def compile_variant(name: str, tokens: int) -> str | None:
    """Run a variant once without any expert chosen, so that Triton's disk cache has its kernels."""
    device = torch.device("cuda")
    variant = next(v for v in variants() if v.name == name)
    E, D, I = cases.EXPERTS, cases.DIM, cases.INTER  # noqa: E741
    shapes = {"w13": (E, 2 * I, D // 2), "s13": (E, 2 * I, D // 32), "w2": (E, D, I // 2), "s2": (E, D, I // 32)}
    inputs: Inputs = {n: torch.empty(shape, dtype=torch.uint8, device=device) for n, shape in shapes.items()}
    inputs |= {"x": torch.zeros(tokens, D, dtype=torch.bfloat16, device=device), "limit": cases.LIMIT, "mode": "w4a8"}
    inputs["topk_ids"] = torch.full((tokens, cases.TOPK), -1, dtype=torch.int32, device=device)
    inputs["topk_weights"] = torch.zeros(tokens, cases.TOPK, device=device)
    try:
        variant.run(inputs, torch.empty_like(inputs["x"]))
        torch.cuda.synchronize()
    except Exception as error:
        return f"{name} T={tokens}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return None


def compile_all(chosen: list[Variant], tokens: list[int]) -> list[str]:
    jobs = [(v.name, count) for v in chosen for count in v.tokens if count in tokens]
    with multiprocessing.get_context("spawn").Pool(COMPILE_WORKERS) as pool:
        return [problem for problem in pool.starmap(compile_variant, jobs, chunksize=1) if problem]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,4,16,32,64,128,256", help="numbers of tokens")
    parser.add_argument("--only", default="", help="parts of names of variants, by comma")
    parser.add_argument("--no-parts", action="store_true", help="no kernels alone")
    options = parser.parse_args()
    tokens = [int(count) for count in options.tokens.split(",")]
    chosen = [v for v in variants() if not options.only or any(part in v.name for part in options.only.split(","))]
    began = time.monotonic()
    for problem in compile_all(chosen, tokens):
        print("COMPILE", problem)
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, Triton {triton.__version__}; compiled in {time.monotonic() - began:.0f} s")
    weights = real_inputs(device)
    problems = check_all(chosen, weights, tokens, device)
    print(
        "\n".join(problems) or "all equal the reference, twice the same",
        f"({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    copy_tb_s = bench.measure_ceilings(device).copy_tb_s
    print(f"copy {copy_tb_s:.2f} TB/s")
    for count in tokens:
        sets = [with_tokens(weights, count, seed) for seed in range(16 if count <= FEW_TOKENS else 3)]
        bench.MAX_SETS = len(sets)  # a graph holds each set once
        moved = moved_bytes(sets)
        print(
            f"\nT={count}: {moved / 1e6:.0f} MB of weights, {moved / copy_tb_s / 1e6:.1f} us at copy speed", flush=True
        )
        for variant in chosen:
            if count in variant.tokens:
                print(time_variant(variant, sets, copy_tb_s, not options.no_parts), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
