"""Which kernel variants were launched that the compile gate does not know.

The gate judges the configurations that the modules list in ``compile_cases``. A tile that a launch picks and no case
lists is one of which nobody has looked at shared memory, spills and MMA instructions. ``recording`` notes every variant
that Triton compiles, ``uncovered`` compares the notes with the cases:

    with coverage.recording() as variants:
        ...  # launches
    gaps = coverage.uncovered_on(torch.device("cuda"), variants)

A list with a variant twice says that one configuration was compiled twice: something that varies from call to call is
part of its key (``recompiled``). ``dry_run`` runs host code on a machine without a GPU and tells what one would compile.

The rule, for a variant of one kernel against the cases of the same kernel that the device's tile set ships:

* Tile: all integer constexprs but ``SIZES`` (dimensions and counts of a model, a cache or a request, which tests choose
  small), ``num_warps`` and, where the kernel has a dot, ``num_stages``. One case must have all of them together. In a
  kernel without a dot the option ``num_stages`` does nothing: Triton applies it to loads that feed a dot. A loop that
  asks for its own depth (``tl.range(num_stages=STAGES)``) has it as a constexpr.
* Choices: every boolean or text constexpr (HAS_SINK, A_FORM). Each value must occur in some case, not every combination.

Not compared: types and alignment of arguments, ``maxnreg`` and ``enable_fp_fusion``, which cases do not have.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ds4_kernels.compile_gate.discover import shipped_cases
from ds4_kernels.triton.compile_case import CompileCase

PACKAGE = "ds4_kernels."

SIZES = frozenset({
    # the model: head and hidden dimensions (and the same as a power of two), heads, experts, ratios, outputs
    "D", "DIM", "DIM_BLOCK", "HEAD_DIM", "ROPE", "HEADS", "DEPTH", "OUT", "MIXES", "INTER", "WIDTH",
    "EXPERTS", "EXPERTS_PAD", "TOPK", "TOPK_PAD", "K", "SLOTS", "RATIO", "COFF",
    # the caches: slots a block, bytes of the two planes of a slot
    "BLOCK_SIZE", "STATE_BLOCK", "SWA_SHIFT", "EXTRA_SHIFT", "DATA", "SCALES",
})  # fmt: skip
"""Constexprs that say how large a problem is. They are no tiles, and tests have other ones than the model."""

DRY_DEVICES: dict[str, tuple[int, int, str]] = {
    "sm90": (90, 132, "NVIDIA H200"),
    "sm12x": (120, 188, "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
}
"""What ``dry_run`` pretends: compute capability, multiprocessors, the driver's name."""

KERNEL_SIZES = {
    f"{PACKAGE}triton.mxfp4_rows._rows_kernel": frozenset({"ROWS"}),
    f"{PACKAGE}triton.mqa._paged_kernel": frozenset({"COLUMNS"}),
}
"""Names that are sizes in one kernel and tiles in others: rows of the weights; heads, at least the 16 of an MMA."""


@dataclass(frozen=True)
class Variant:
    """One compiled kernel: its full name, its declared constexprs (sorted) and launch options."""

    kernel: str
    constexprs: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Gap:
    """A variant that no compile case stands for, and what the cases lack."""

    variant: Variant
    reason: str

    def __str__(self) -> str:
        return f"{self.variant.kernel.removeprefix(f'{PACKAGE}triton.')}: {self.reason}"


@contextmanager
def recording(package: str = PACKAGE, *, fresh: bool = False) -> Iterator[list[Variant]]:
    """Gives a list that gets every variant of the package's kernels that Triton compiles, or loads from its disk cache.

    A variant is noted at its first launch in the process: what was launched before is not seen, unless ``fresh`` makes
    Triton forget it (of kernels with a compile case; imports every kernel module). Triton's interpreter compiles
    nothing. A hook that was there before is still called, and is back afterwards. Needs triton.
    """
    from triton import knobs

    for case in shipped_cases() if fresh and not knobs.runtime.interpret else ():
        case.kernel.device_caches.clear()

    variants: list[Variant] = []
    previous: Callable[..., Any] | None = knobs.runtime.jit_post_compile_hook

    def note(**info: Any) -> Any:
        if info["fn"].module.startswith(package):
            variants.append(_variant(info["fn"], info["compile"]))
        return None if previous is None else previous(**info)

    knobs.runtime.jit_post_compile_hook = note
    try:
        yield variants
    finally:
        knobs.runtime.jit_post_compile_hook = previous


@contextmanager
def dry_run(tiles: Literal["sm12x", "sm90"]) -> Iterator[None]:
    """Inside, kernels called with CPU tensors run their host code as on a GPU of the tile set, and launch nothing.

    Triton's hooks (``recording``) hear of each specialisation that such a GPU would compile, once. Outputs stay as they
    were allocated. Imports every kernel module. Raises RuntimeError under Triton's interpreter.
    """
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime import jit

    if knobs.runtime.interpret:
        raise RuntimeError("dry_run: TRITON_INTERPRET=1 leaves nothing to compile; unset it")
    capability, multiprocessors, name = DRY_DEVICES[tiles]
    backend = make_backend(GPUTarget("cuda", capability, 32))
    known: set[tuple[Any, str, str]] = set()

    def run(fn: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        del grid, warmup
        bound, specialization, _ = jit.create_function_from_signature(fn.signature, fn.params, backend)(
            *args, **options
        )
        key = (fn, str(specialization), str(options))
        if key not in known:
            known.add(key)
            parsed, _, constants, _ = fn._pack_args(backend, options, bound, specialization, options)
            _tell(jit.JitFunctionInfo(fn.fn.__module__, fn.fn.__qualname__, fn), constants, parsed)

    shipped_cases()
    told = {
        "tile_set": tiles,
        "num_sms": multiprocessors,
        "device_name": name,
        "dependent": {"PDL": True, "launch_pdl": True},
    }
    undo = _replaced({function: _always(answer) for function, answer in told.items()})
    launch, jit.JITFunction.run = jit.JITFunction.run, run
    try:
        yield
    finally:
        jit.JITFunction.run = launch
        for module, attribute, function in undo:
            setattr(module, attribute, function)


def recompiled(variants: Iterable[Variant]) -> list[Variant]:
    """Variants that were compiled more than once, of calls whose arguments have the same types."""
    return [variant for variant, times in Counter(variants).items() if times > 1]


def surplus(variants: Iterable[Variant], cases: Iterable[CompileCase], tiles: str) -> list[str]:
    """Kernels of which there are more variants than the tile set has cases, e.g. one for each number of tokens."""
    shipped = Counter(kernel_path(case.kernel) for case in cases if case.tiles in (tiles, "sm12x"))
    launched = Counter(variant.kernel for variant in set(variants))
    return [f"{name}: {launched[name]} of {shipped[name]}" for name in launched if launched[name] > shipped[name]]


def uncovered(variants: Iterable[Variant], cases: Iterable[CompileCase], tiles: str) -> list[Gap]:
    """What no case of the tile set ``tiles`` ("sm12x" or "sm90") stands for: one gap per kernel and reason, in order.

    Cases marked "sm12x" are compiled for every architecture, so they count for "sm90" too.
    """
    by_kernel: dict[str, list[CompileCase]] = {}
    for case in cases:
        if case.tiles in (tiles, "sm12x"):
            by_kernel.setdefault(kernel_path(case.kernel), []).append(case)
    gaps: dict[tuple[str, str], Gap] = {}
    for variant in variants:
        for reason in _missing(variant, by_kernel.get(variant.kernel, [])):
            gaps.setdefault((variant.kernel, reason), Gap(variant, reason))
    return list(gaps.values())


def uncovered_on(device: torch.device, variants: Iterable[Variant]) -> list[Gap]:
    """``uncovered`` against all shipped cases of the device's tile set. Imports every kernel module."""
    from ds4_kernels.triton.arch import tile_set

    return uncovered(variants, shipped_cases(), tile_set(device))


def kernel_path(kernel: Any) -> str:
    """Module and name of a kernel."""
    function = getattr(kernel, "fn", kernel)
    return f"{function.__module__}.{function.__qualname__}"


def _variant(fn: Any, compiled: dict[str, Any]) -> Variant:
    """From what Triton (3.6 to 3.8) hands its hooks: ``constants`` maps (position of the argument,) to its value.

    Integer arguments that are 1 are among them too, although nobody declared them as constexprs.
    """
    function = fn.jit_function
    declared = {function.arg_names[position] for position in function.constexprs}
    constants = ((function.arg_names[path[0]], value) for path, value in compiled["constants"].items())
    chosen = {name: _plain(value) for name, value in constants if name in declared}
    return Variant(
        f"{fn.module}.{fn.name}", tuple(sorted(chosen.items())), compiled["num_warps"], compiled["num_stages"]
    )


def _tell(fn: Any, constants: dict[tuple[int, ...], Any], options: Any) -> None:
    """Call Triton's hook as Triton does after it has compiled."""
    from triton import knobs

    if knobs.runtime.jit_post_compile_hook is not None:
        compiled = {"constants": constants, "num_warps": options.num_warps, "num_stages": options.num_stages}
        knobs.runtime.jit_post_compile_hook(
            key="", repr="", fn=fn, compile=compiled, is_manual_warmup=False, already_compiled=False
        )


def _always(answer: Any) -> Callable[[Any], Any]:
    return lambda _: answer


def _replaced(functions: dict[str, Callable[[Any], Any]]) -> list[tuple[Any, str, Any]]:
    """Put functions in the place of those of the same names in every kernel module; what was there before."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(f"{PACKAGE}triton.")]
    before = [
        (module, name, getattr(module, name)) for module in modules for name in functions if hasattr(module, name)
    ]
    for module, name, _ in before:
        setattr(module, name, functions[name])
    return before


def _plain(value: Any) -> Any:
    return value.value if type(value).__name__ == "constexpr" else value


def _missing(variant: Variant, cases: list[CompileCase]) -> list[str]:
    if not cases:
        return ["no compile case of this kernel"]
    constexprs = dict(variant.constexprs)
    has_dot = any(case.mma is not None for case in cases)
    sizes = SIZES | KERNEL_SIZES.get(variant.kernel, frozenset())
    tile = _tile(constexprs, variant.num_warps, variant.num_stages, has_dot, sizes)
    if all(_tile(case.constexprs, case.num_warps, case.num_stages, has_dot, sizes) != tile for case in cases):
        return ["no case has " + " ".join(f"{name}={value}" for name, value in tile.items())]
    choices = [(name, value) for name, value in constexprs.items() if isinstance(value, (bool, str))]
    return [
        f"no case has {name}={value}"
        for name, value in choices
        if all(case.constexprs.get(name) != value for case in cases)
    ]


def _tile(
    constexprs: dict[str, Any], num_warps: int, num_stages: int, has_dot: bool, sizes: frozenset[str]
) -> dict[str, int]:
    tile = {name: value for name, value in sorted(constexprs.items()) if type(value) is int and name not in sizes}
    return {**tile, "num_warps": num_warps, **({"num_stages": num_stages} if has_dot else {})}
