"""Which launched variants the compile gate knows: the rule, and the kernels held against it without a GPU."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ds4_kernels import coverage, ops
from ds4_kernels.cases import (
    attention_state,
    cache,
    compressor_store,
    einsum,
    hyper_connections,
    index_builders,
    mqa,
    mxfp4_moe,
    norms,
    quantize,
    query,
    registry,
    router,
    sparse_attention,
    topk,
    w8a8,
)
from ds4_kernels.cases.base import Build
from ds4_kernels.compile_gate.discover import shipped_cases
from ds4_kernels.coverage import Variant, kernel_path, uncovered
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, INDEXER_FP8
from ds4_kernels.triton.compile_case import CompileCase

pytest.importorskip("triton")
CPU = torch.device("cpu")
BF16 = torch.bfloat16
EDGES = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 32, 33, 48, 63, 64, 65, 127, 128, 129, 256, 257, 511, 512, 513, 600)
COUNTS = sorted({*EDGES, *random.Random(7).sample([n for n in range(1, 601) if n not in EDGES], 50 - len(EDGES))})
"""50 numbers of tokens: beside every limit at which a module changes its tile, most of them no multiple of 16. One limit is
beyond them: ``MANY``."""
MANY = {"cache_insert": (1024, 1025)}

BY_TOKENS: dict[str, Callable[[int], Build]] = {
    "sparse_attention_prefill H=64": lambda t: sparse_attention._prefill_build(t, 64, 70, 40, "random"),
    "sparse_attention_prefill H=8": lambda t: sparse_attention._prefill_build(t, 8, 70, 40, "random"),
    "sparse_attention_decode H=64": lambda t: sparse_attention._decode_build(t, 64, 32, 32, 64, "random"),
    "sparse_attention_decode H=8": lambda t: sparse_attention._decode_build(t, 8, 128, None, 64, "random"),
    "accumulate_gathered": lambda t: attention_state._gathered(t, 6, 9, ids=True),
    "accumulate_indexed": lambda t: attention_state._indexed(t, 6, 21, 17),
    "accumulate_slots": lambda t: attention_state._slots(t, 6, 13, 4, 64),
    "accumulate_paged": lambda t: attention_state._paged(t, 1, 4, 24, 16),
    "finish": lambda t: attention_state._finish(t, 4, 0.0, None),
    "finish_two": lambda t: attention_state._finish_two(t, 4, 0.0, 6),
    "merge_subsets": lambda t: attention_state._merge(t, 4, 6, 0.0),
    "attend_paged_and_slots": lambda t: attention_state._fused(t, 1, 4, 70, 9, 2, 0.0),
    "attend_materialised": lambda t: attention_state._materialised(t, 5, 10, HEAD_DIM, 0.0),
    "mqa_logits_ragged": lambda t: mqa._ragged_build(t, 300, 8, None),
    "mqa_logits_ragged compressed": lambda t: mqa._ragged_build(t, 260, 64, 150),
    "mqa_logits_paged": lambda t: mqa._paged_build(t, 1, 100, 8, flat=True, rowwise=False),
    "mqa_logits_paged next_n=3": lambda t: mqa._paged_build(t, 3, 100, 16, flat=False, rowwise=False),
    "mqa_logits_wq": lambda t: mqa._wq_build(t, 90, 8),
    "topk_prefill": lambda t: topk._prefill(t, 5000, 512, "normal").build,
    "topk_decode": lambda t: topk._decode(t, 1, 5000, 512, per_row=False).build,
    "topk_decode per row": lambda t: topk._decode(t, 2, 5000, 512, per_row=True).build,
    "global_topk_slots": lambda t: index_builders.topk_build(t, 70, 64, 0),
    "combine_topk_swa": lambda t: index_builders.combine_build([t, 3], [60, 0], 4, 16),
    "c128a_metadata": lambda t: index_builders.c128a_build(t, t // 2, 128, 128),
    "decode_swa_slots": lambda t: index_builders.swa_build(t, 64, 128, 0),
    "cache_insert": lambda t: cache.insert_build(FP8_DS_MLA, HEAD_DIM, t, 64, BF16),
    "indexer_insert": lambda t: cache.insert_build(INDEXER_FP8, INDEX_DIM, t, 64, BF16),
    "cache_gather": lambda t: cache.gather_build([t, 3], [t, 2], 64, 5),
    "indexer_gather": lambda t: cache.indexer_gather_build([t, 3], 64, whole=True),
    "query_norm_rope": lambda t: query.query_build(t, 8, 16),
    "kv_rope_insert": lambda t: query.kv_build(t, 64),
    "indexer_query": lambda t: query.indexer_query_build(t, 8),
    "state_save": lambda t: compressor_store.state_build(t, 256, 4),
    "compress_store": lambda t: compressor_store.compress_build("mla", 4, [(0, t)]),
    "inverse_rope_quant": lambda t: einsum.inverse_rope_build(t, 8, 2, "packed", torch.int32),
    "fp8_einsum": lambda t: einsum.einsum_build(t, 2, 64, 512, "fp32", "fp32"),
    "quant_fp8": lambda t: quantize.quantize_build(t, 512, 128, "ue8m0", 0),
    "w8a8_gemm": lambda t: w8a8.gemm_build(t, 256, 512, "fp32", "fp32", BF16),
    "w8a8_gemm_mxfp8": lambda t: w8a8.gemm_build(t, 256, 512, "e8m0", "e8m0", BF16),
    "mhc_prenorm_gemm": lambda t: hyper_connections._prenorm(t, 1024, 3, 24, exact=False),
    "mhc_split_sinkhorn": hyper_connections._sinkhorn,
    "mhc_pre": lambda t: hyper_connections._pre(t, 256, BF16),
    "mhc_post": lambda t: hyper_connections._post(t, 256),
    "mhc_post_pre": lambda t: hyper_connections._post_pre(t, 256),
    "mhc_head": lambda t: hyper_connections._head(t, 256),
    "mxfp4_moe": lambda t: mxfp4_moe.moe_build(t, 256, 256, 8, 2, "random", "w4a8", None),
    "route": lambda t: router.route_build(t, 12, 3, "bias"),
    "swiglu_clamped": lambda t: router.swiglu_build(t, 128, BF16),
    "rms_norm": lambda t: norms._build(t, 512, "fp32", 0),
    "mtp_fuse": lambda t: norms._mtp(t, 512),
}
"""By op and, where it has several kernels or paths, a word more: inputs for any number of tokens (rows, requests)."""


def launched(label: str, counts: Iterable[int], device: torch.device) -> list[Variant]:
    """What is compiled for calls with these numbers of tokens."""
    with coverage.recording(fresh=True) as variants:
        for tokens in (*counts, *MANY.get(label, ())):
            inputs = BY_TOKENS[label](tokens)(torch.Generator().manual_seed(tokens), device)
            ops.implementation(label.split(maxsplit=1)[0], "triton")(**inputs)
    return variants


def test_every_op_is_called_with_many_numbers_of_tokens() -> None:
    assert {label.split(maxsplit=1)[0] for label in BY_TOKENS} == set(ops.TABLE)
    assert len(COUNTS) == 50
    assert sum(count % 16 != 0 for count in COUNTS) > 30


# --- the rule, on variants made from real compile cases ---


def case_named(op: str, kernel: str, tiles: str = "sm12x", **constexprs: Any) -> CompileCase:
    """The first shipped case of a kernel with these constexprs."""
    return next(
        case
        for case in shipped_cases()
        if (case.op, case.tiles, kernel_path(case.kernel).rpartition(".")[2]) == (op, tiles, kernel)
        and constexprs.items() <= case.constexprs.items()
    )


def variant_of(case: CompileCase, **changed: Any) -> Variant:
    """What a launch of the case would be noted as, with some constexprs or launch options changed."""
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, **changed}
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    return Variant(kernel_path(case.kernel), tuple(sorted({**case.constexprs, **options}.items())), warps, stages)


def reasons(variant: Variant, tiles: str = "sm12x") -> list[str]:
    return [gap.reason for gap in uncovered([variant], shipped_cases(), tiles)]


MERGE = ("sparse_attention_decode", "merge_kernel")
GEMM = ("w8a8_gemm", "_token_rows")


@pytest.mark.parametrize("tiles", ["sm12x", "sm90"])
def test_every_case_covers_itself(tiles: str) -> None:
    cases = [case for case in shipped_cases() if case.tiles in (tiles, "sm12x")]
    assert uncovered(map(variant_of, cases), shipped_cases(), tiles) == []


def test_a_tile_that_no_case_has() -> None:
    case = case_named(*GEMM)
    assert reasons(variant_of(case, BLOCK_M=48))[0].startswith("no case has BLOCK_K=")
    assert "BLOCK_M=48" in reasons(variant_of(case, BLOCK_M=48))[0]
    assert "num_warps=2" in reasons(variant_of(case, num_warps=2))[0]


def test_the_parts_of_a_tile_must_be_in_one_case() -> None:
    small = replace(case_named(*GEMM), constexprs={"BLOCK_M": 16, "BLOCK_K": 64}, num_warps=4)
    large = replace(small, constexprs={"BLOCK_M": 128, "BLOCK_K": 256}, num_warps=8)
    assert uncovered([variant_of(small), variant_of(large)], [small, large], "sm12x") == []
    for mixed in (variant_of(small, BLOCK_K=256), variant_of(small, num_warps=8)):
        assert len(uncovered([mixed], [small, large], "sm12x")) == 1


def test_a_choice_that_no_case_has() -> None:
    only = replace(case_named(*MERGE), constexprs={**case_named(*MERGE).constexprs, "HAS_SINK": True})
    without = variant_of(only, HAS_SINK=False)
    assert [gap.reason for gap in uncovered([without], [only], "sm12x")] == ["no case has HAS_SINK=False"]
    other = replace(only, constexprs={**only.constexprs, "HAS_SINK": False})
    assert uncovered([without], [only, other], "sm12x") == []
    assert reasons(variant_of(case_named(*GEMM), A_FORM="fp4")) == ["no case has A_FORM=fp4"]


def test_choices_may_come_from_different_cases() -> None:
    case = replace(case_named(*GEMM), constexprs={"A_FORM": "fp32", "B_FORM": "fp32", "BLOCK_M": 16})
    other = replace(case, constexprs={"A_FORM": "u8", "B_FORM": "u8", "BLOCK_M": 16})
    assert uncovered([variant_of(case, A_FORM="u8")], [case, other], "sm12x") == []


def test_a_kernel_without_cases() -> None:
    unknown = Variant("ds4_kernels.triton.new._kernel", (("BLOCK", 64),), 4, 1)
    assert [str(gap) for gap in uncovered([unknown], shipped_cases(), "sm90")] == [
        "new._kernel: no compile case of this kernel"
    ]


def test_sizes_of_a_problem_are_no_tiles() -> None:
    case = case_named(*MERGE)
    assert reasons(variant_of(case, D=64)) == []
    assert reasons(variant_of(case, BLOCK_S=64)) != []


def test_a_size_of_one_kernel_is_a_tile_of_another() -> None:
    moe = case_named("mxfp4_moe", "_rows_kernel")
    assert reasons(variant_of(moe, ROWS=512)) == []
    insert = case_named("cache_insert", "_cache_insert_kernel")
    assert reasons(variant_of(insert, ROWS=512)) != []


def test_the_lists_of_sizes_name_what_exists() -> None:
    names = {kernel_path(case.kernel): set(case.constexprs) for case in shipped_cases()}
    assert set().union(*names.values()) >= coverage.SIZES
    assert all(sizes <= names[kernel] for kernel, sizes in coverage.KERNEL_SIZES.items())


def test_stages_count_where_there_is_a_dot() -> None:
    gemm, merge = case_named(*GEMM), case_named(*MERGE)
    assert (gemm.mma, merge.mma) == ("e4m3", None)
    assert "num_stages=9" in reasons(variant_of(gemm, num_stages=9))[0]
    assert reasons(variant_of(merge, num_stages=9)) == []


def test_tile_sets() -> None:
    hopper = next(case for case in shipped_cases() if case.tiles == "sm90" and case.op == "mqa_logits_paged")
    assert reasons(variant_of(hopper), "sm90") == []
    assert reasons(variant_of(hopper), "sm12x") != []
    everywhere = case_named("mqa_logits_paged", "_paged_kernel")
    assert reasons(variant_of(everywhere), "sm90") == []


def test_a_gap_is_told_once() -> None:
    odd = variant_of(case_named(*GEMM), BLOCK_M=48)
    assert (
        len(uncovered([odd, odd, variant_of(case_named(*GEMM), BLOCK_M=48, A_FORM="u8")], shipped_cases(), "sm12x"))
        == 1
    )


def test_counts_of_variants() -> None:
    merge = case_named(*MERGE)
    once = [variant_of(merge, BLOCK_H=heads) for heads in (1, 2)]
    assert coverage.recompiled(once) == []
    assert coverage.recompiled([*once, once[0]]) == [once[0]]
    assert coverage.surplus([once[0], once[0]], [merge], "sm90") == []
    assert coverage.surplus(once, [merge], "sm12x") == [f"{once[0].kernel}: 2 of 1"]
    assert coverage.surplus(once[:1], [replace(merge, tiles="sm90")], "sm12x") == [f"{once[0].kernel}: 1 of 0"]


# --- what Triton tells ---


class Constexpr:
    """Stands for ``tl.constexpr``, by name."""

    def __init__(self, value: Any) -> None:
        self.value = value


Constexpr.__name__ = "constexpr"


def tell(module: str, constants: dict[tuple[int, ...], Any]) -> Any:
    """Call the hook as Triton does: argument 1 is an integer that is 1, arguments 2 and 3 are constexprs."""
    function = SimpleNamespace(arg_names=["x", "rows", "BLOCK", "FORM"], constexprs=[2, 3])
    info = SimpleNamespace(module=module, name="_kernel", jit_function=function)
    return knobs().jit_post_compile_hook(
        key="k", repr="r", fn=info, compile={"constants": constants, "num_warps": 4, "num_stages": 3},
        is_manual_warmup=False, already_compiled=False,
    )  # fmt: skip


def knobs() -> Any:
    return pytest.importorskip("triton").knobs.runtime


def test_recording_notes_declared_constexprs(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(knobs(), "jit_post_compile_hook", lambda **info: heard.append(info["fn"].module))
    before = knobs().jit_post_compile_hook
    with coverage.recording() as variants:
        tell("ds4_kernels.triton.new", {(1,): 1, (2,): Constexpr(64), (3,): "u8"})
        tell("someone.else", {(2,): 64, (3,): "u8"})
    assert variants == [Variant("ds4_kernels.triton.new._kernel", (("BLOCK", 64), ("FORM", "u8")), 4, 3)]
    assert heard == ["ds4_kernels.triton.new", "someone.else"]
    assert knobs().jit_post_compile_hook is before


def test_recording_ends_with_an_error_too() -> None:
    before = knobs().jit_post_compile_hook
    with pytest.raises(ZeroDivisionError), coverage.recording():
        raise ZeroDivisionError
    assert knobs().jit_post_compile_hook is before


@pytest.mark.interpreted
def test_a_dry_run_refuses_the_interpreter() -> None:
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1 leaves nothing to compile"), coverage.dry_run("sm90"):
        pass


# --- the kernels, in a process that does not interpret them ---


def dry_checks(tiles: str) -> list[str]:
    """Gaps of the small check cases."""
    with coverage.dry_run(tiles), coverage.recording() as variants:
        for case in registry.check_cases(ops.names(), large=False):
            ops.implementation(case.op, "triton")(**case.build(torch.Generator().manual_seed(1), CPU))
    assert len(variants) > 100
    return [str(gap) for gap in uncovered(variants, shipped_cases(), tiles)]


def dry_tokens(tiles: str) -> list[str]:
    """What is wrong with the compilations for many numbers of tokens."""
    cases, wrong = shipped_cases(), []
    for label in BY_TOKENS:
        with coverage.dry_run(tiles):
            variants = launched(label, COUNTS[::3], CPU)
        wrong += [] if variants else [f"{label}: nothing was launched"]
        wrong += [f"{label}: compiled again: {variant}" for variant in coverage.recompiled(variants)]
        wrong += [f"{label}: {kernel}" for kernel in coverage.surplus(variants, cases, tiles)]
    return wrong


def dry_specialised(tiles: str) -> list[str]:
    """An argument that may be 1 or a multiple of 16 makes other variants; one that is not specialised makes none."""
    import triton
    from triton import language as tl

    def kernel(x, rows, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        tl.store(x + tl.arange(0, BLOCK), rows)

    found = {}
    for name, kept in (("free", []), ("fixed", ["rows"])):
        with coverage.dry_run(tiles), coverage.recording(package="__main__") as variants:
            jitted = triton.jit(kernel, do_not_specialize=kept)
            for rows in (1, 2, 3, 16, 2**40, 32):
                jitted[(1,)](torch.zeros(64), rows, BLOCK=64, num_warps=2)
        found[name] = len(variants), len(coverage.recompiled(variants)), {v.constexprs for v in variants}
    block = {(("BLOCK", 64),)}
    assert found == {"free": (4, 1, block), "fixed": (2, 1, block)}, found  # 2^40 is another type
    return []


@pytest.mark.triton
@pytest.mark.parametrize("tiles", ["sm12x", pytest.param("sm90", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["dry_checks", pytest.param("dry_tokens", marks=pytest.mark.slow), "dry_specialised"])
def test_kernels_without_a_gpu(task: str, tiles: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, task, tiles],
        env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
