"""The compile gate's parts, and (in a process that compiles) the gate on deliberately bad kernels."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from ds4_kernels import cli
from ds4_kernels.compile_gate import binary, discover, pool, rules
from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.compile_gate.discover import Task
from ds4_kernels.compile_gate.results import ResultCache, default_folder
from ds4_kernels.triton.compile_case import CompileCase

GOOD = CompileCase(
    op="gemm",
    config="good",
    kernel="gemm kernel",
    signature={},
    constexprs={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64},
    num_warps=4,
    num_stages=3,
    mma="bf16",
)
BAD = replace(GOOD, config="bad")
OTHER_KERNEL = replace(GOOD, kernel="other kernel")


@pytest.mark.triton
def test_deliberately_bad_kernels_are_caught() -> None:
    pytest.importorskip("triton")
    file = Path(__file__).with_name("gate_on_real_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


WAITS = replace(GOOD, constexprs={**GOOD.constexprs, "PDL": True})


@pytest.mark.parametrize(
    ("case", "early", "reason"),
    [
        (WAITS, (), None),
        (WAITS, None, "never waits"),
        (WAITS, ("ld",), "ld on global memory before it waits"),
        (replace(WAITS, early_reads=True), ("ld",), None),
        (replace(WAITS, early_reads=True), ("atom", "ld", "st"), "atom, st on global memory before it waits"),
        (GOOD, None, None),
    ],
)
@pytest.mark.parametrize("arch", ["sm_90", "sm_120", "sm_121"])
def test_a_dependent_kernel_waits_before_it_touches_memory(
    arch: str, case: CompileCase, early: tuple[str, ...] | None, reason: str | None
) -> None:
    verdict = rules.judge(case, arch, Measurement(mma=("bf16",), early=early), "3.8.0")
    assert (verdict.outcome, bool(verdict.reasons)) == (("ok", False) if reason is None else ("violation", True))
    assert reason is None or reason in verdict.reasons[0]


@pytest.mark.parametrize(
    ("ptx", "early"),
    [
        ("ld.param.b64 %rd1, [p];\ngriddepcontrol.wait;\nld.global.b32 %r1, [%rd1];", ()),
        ("@%p1 ld.global.L1::evict_first.v4.b32 {%r1}, [%rd1];\ngriddepcontrol.wait; // dummy %r2", ("ld",)),
        (
            "cp.async.cg.shared.global [%r1], [%rd1], 16;\natom.global.gpu.add.u32 %r1, [%rd1], 1;\ngriddepcontrol.wait;",
            ("atom", "cp"),
        ),
        (
            "st.volatile.global.b32 [%rd1], %r1;\nst.shared.b32 [%r1], %r2;\ngriddepcontrol.wait;\nred.global.add [%rd1];",
            ("st",),
        ),
        ("@%p1 cp.async.bulk.prefetch.L2.global [%rd1], %r1;\nprefetch.global.L2 [%rd1];\ngriddepcontrol.wait;", ()),
        ("cp.async.bulk.shared::cluster.global.mbarrier [%r1], [%rd1], 16, [%r2];\ngriddepcontrol.wait;", ("cp",)),
        ("griddepcontrol.launch_dependents;\nst.global.b32 [%rd1], %r1;", None),
    ],
)
def test_what_stands_before_the_wait(ptx: str, early: tuple[str, ...] | None) -> None:
    assert binary.before_the_wait(ptx) == early


@pytest.mark.parametrize("version, before", [("3.6.0", True), ("3.7.1+git", True), ("3.8.0", False), ("4.0", False)])
def test_half_rate_fp8_is_a_downgrade_before_triton_38(version: str, before: bool) -> None:
    assert rules.triton_before_38(version) is before
    fp8, mx = replace(GOOD, mma="e4m3"), replace(GOOD, mma="mxf8f6f4")
    outcomes = [
        rules.judge(fp8, "sm_121", Measurement(mma=("f16",)), version),
        rules.judge(mx, "sm_121", Measurement(mma=("bf16",)), version),
    ]
    expected = ("downgrade", ("half-rate FP8 before Triton 3.8",)) if before else None
    for verdict in outcomes:
        assert (verdict.outcome, verdict.reasons) == expected if expected else verdict.outcome == "violation"
        assert verdict.failed is not before


def test_spills_of_a_downgraded_kernel_belong_to_the_downgrade() -> None:
    case = replace(GOOD, mma="e4m3")
    verdict = rules.judge(case, "sm_121", Measurement(mma=("f16",), stack=16, local=8), "3.6.0")
    assert verdict.outcome == "downgrade"
    assert verdict.reasons == ("half-rate FP8 before Triton 3.8", "spills 24 B of registers a thread")
    assert rules.judge(case, "sm_121", Measurement(mma=("e4m3",), stack=16), "3.6.0").outcome == "violation"


@pytest.mark.parametrize(
    "case, arch, measured",
    [
        (replace(GOOD, mma="e4m3"), "sm_120", Measurement(mma=("f16",))),
        (replace(GOOD, mma="e4m3"), "sm_121", Measurement(mma=())),
        (replace(GOOD, mma="e4m3"), "sm_121", Measurement(mma=("f16",), shared=101_377)),
        (replace(GOOD, mma="e4m3"), "sm_121", Measurement(mma=("f16",), foreign=("tcgen05",))),
        (replace(GOOD, mma="bf16"), "sm_121", Measurement(mma=("f16",))),
        (replace(GOOD, mma="e4m3"), "sm_121", Measurement(mma=("e4m3", "f16"))),
    ],
)
def test_the_downgrade_excuses_nothing_else(case: CompileCase, arch: str, measured: Measurement) -> None:
    assert rules.judge(case, arch, measured, "3.6.0").outcome == "violation"


@pytest.mark.parametrize("arch, limit", [("sm_90", 232_448), ("sm_120", 101_376), ("sm_121", 101_376)])
def test_shared_memory_may_reach_the_limit(arch: str, limit: int) -> None:
    good = Measurement(mma=("bf16",), shared=limit)
    assert rules.judge(GOOD, arch, good, "3.8.0").outcome == "ok"
    assert rules.judge(GOOD, arch, replace(good, shared=limit + 1), "3.8.0").outcome == "violation"


@pytest.mark.parametrize(
    "ptx, kinds, foreign",
    [
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 { %r1 }", ("bf16",), ()),
        ("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {", ("e4m3",), ()),
        ("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {", ("e4m3xe5m2",), ()),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {", ("tf32",), ()),
        (
            "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e4m3.f32.ue8m0 {",
            ("mxf8f6f4",),
            (),
        ),
        ("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32 {", ("e4m3",), ()),
        ("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {", ("wgmma bf16",), ("wgmma",)),
        ("wgmma.fence.sync.aligned;", (), ("wgmma",)),
        ("tcgen05.mma.cta_group::1.kind::f16 [", (), ("tcgen05",)),
        ("ld.global.b32 %mma.sync, [%rd1];", (), ()),
    ],
)
def test_instructions_in_ptx(ptx: str, kinds: tuple[str, ...], foreign: tuple[str, ...]) -> None:
    assert binary.mma_kinds(f"\t{ptx}\n\tret;") == kinds
    assert binary.foreign_instructions(f"\t{ptx}\n\tret;") == foreign


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ds4-kernels" / "compile"
    cache = ResultCache(tmp_path / "file" / "below")
    (tmp_path / "file").write_text("not a folder")
    cache.put("ab12", Measurement(shared=1))
    assert cache.get("ab12") is None


def crash_on_bad(case: CompileCase, arch: str) -> Measurement:
    if case is BAD:
        faulthandler.disable()  # pytest's would print this process's stack
        os.write(2, b"LLVM ERROR: as told\n")
        os.abort()
    return Measurement(shared=1)


def test_a_crash_of_the_compiler_costs_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "measure", crash_on_bad)
    tasks = [Task(case, "sm_120") for case in (GOOD, BAD, GOOD, BAD, GOOD)]
    found = dict(pool.compile_all(tasks, jobs=2, limit_s=60))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [found[index].shared for index in (0, 2, 4)] == [1, 1, 1]
    for index in (1, 3):
        assert "SIGABRT" in str(found[index].error)
        assert "LLVM ERROR: as told" in str(found[index].error)


def print_and_fail(case: CompileCase, arch: str) -> Measurement:
    os.write(2, b"module {\n" * 100_000 + b"k.py:3:1: error: no such layout\n" + b"}\n" * 100_000)
    return Measurement(error="pass failed")


def test_the_compiler_s_error_lines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "measure", print_and_fail)
    ((_, measured),) = pool.compile_all([Task(BAD, "sm_120")], jobs=1, limit_s=60)
    assert measured.error == "pass failed\ncompiler output: k.py:3:1: error: no such layout"


def hang_on_bad(case: CompileCase, arch: str) -> Measurement:
    if case is BAD:
        time.sleep(600)
    return Measurement(shared=1)


def test_a_hang_of_the_compiler_costs_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "measure", hang_on_bad)
    start = time.monotonic()
    found = dict(pool.compile_all([Task(BAD, "sm_120"), Task(GOOD, "sm_120")], jobs=1, limit_s=1))
    assert found[0].error == "the compiler did not finish within 1 s"
    assert found[1].shared == 1
    assert time.monotonic() - start < 30


def test_the_subset_holds_the_largest_tile_and_rotates_the_others() -> None:
    sizes = [
        replace(GOOD, config=str(n), constexprs={"BLOCK_M": 16, "BLOCK_N": n, "BLOCK_K": 64}) for n in (16, 256, 32, 64)
    ]
    other = [OTHER_KERNEL, replace(sizes[0], tiles="sm90")]
    chosen = [discover.subset([*sizes, *other], seed) for seed in range(3)]
    assert [[case.config for case in cases[:2]] for cases in chosen] == [["256", "16"], ["256", "32"], ["256", "64"]]
    assert all(cases[2:] == other for cases in chosen)
    assert discover.subset([*sizes, *other], 4) == chosen[1]


def test_more_stages_make_a_tile_larger() -> None:
    assert discover.tile_size(replace(GOOD, num_stages=4)) > discover.tile_size(GOOD)
    assert discover.tile_size(replace(GOOD, constexprs={"HEAD_DIM": 512, "FLAG": True})) == 512 * GOOD.num_stages


def test_cases_of_all_modules_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gate_sample"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "without.py").write_text("x = 1\n")
    line = "[CompileCase('{}', 'x', None, {{}}, {{}}, 4)]"
    head = "from ds4_kernels.triton.compile_case import CompileCase\nfrom gate_sample.part import inner\n"
    (package / "some.py").write_text(
        f"{head}\ndef compile_cases():\n    return {line.format('some')} + inner.compile_cases()\n"
    )
    (package / "part" / "__init__.py").write_text("from gate_sample.part.inner import compile_cases\n")
    (package / "part" / "inner.py").write_text(
        "from ds4_kernels.triton.compile_case import CompileCase\n"
        f"\ndef compile_cases():\n    return {line.format('inner')}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [case.op for case in discover.shipped_cases("gate_sample")] == ["inner", "some"]


@pytest.mark.triton
def test_shipped_configurations_have_names_of_their_own() -> None:
    pytest.importorskip("triton")
    names = Counter((case.op, case.config, case.tiles) for case in discover.shipped_cases())
    assert names
    assert [name for name, count in names.items() if count > 1] == []


def test_the_interpreter_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cli.main(["compile"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "TRITON_INTERPRET is set" in error
