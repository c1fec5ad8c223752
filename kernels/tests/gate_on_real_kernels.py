"""The compile gate on kernels written to break one rule each.

Not collected by name: Triton decides when it is imported whether it compiles, and the other kernel tests interpret.
``test_compile_gate.py`` runs this file in a process of its own with TRITON_INTERPRET=0.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import triton
import triton.language as tl
from ds4_kernels import cli
from ds4_kernels.compile_gate import discover, report, rules, run
from ds4_kernels.compile_gate.discover import Task
from ds4_kernels.compile_gate.results import ResultCache, fingerprint
from ds4_kernels.triton.compile_case import CompileCase


@triton.jit
def gemm(a, b, c, k_size, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k_size, BLOCK_K):
        left = tl.load(a + m[:, None] * k_size + start + k[None, :])
        right = tl.load(b + n[:, None] * k_size + start + k[None, :])
        acc = tl.dot(left, right.T, acc)
    tl.store(c + m[:, None] * BLOCK_N + n[None, :], acc)


@triton.jit
def scaled(
    a,
    a_scale,
    b,
    b_scale,
    c,
    k_size,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FP4: tl.constexpr,
):
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    groups = tl.arange(0, BLOCK_K // 32)
    packed: tl.constexpr = BLOCK_K // 2 if FP4 else BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k_size, BLOCK_K):
        left = tl.load(a + m[:, None] * k_size + start + tl.arange(0, BLOCK_K)[None, :])
        right = tl.load(b + n[:, None] * k_size + start + tl.arange(0, packed)[None, :])
        left_scale = tl.load(a_scale + m[:, None] * (k_size // 32) + start // 32 + groups[None, :])
        right_scale = tl.load(b_scale + n[:, None] * (k_size // 32) + start // 32 + groups[None, :])
        if FP4:
            acc = tl.dot_scaled(left, left_scale, "e4m3", right.T, right_scale, "e2m1", acc)
        else:
            acc = tl.dot_scaled(left, left_scale, "e4m3", right.T, right_scale, "e4m3", acc)
    tl.store(c + m[:, None] * BLOCK_N + n[None, :], acc)


@triton.jit
def copy(a, c, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(c + at, tl.load(a + at, mask=at < size), mask=at < size)


@triton.jit
def wrong(a, c, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(c + at, tl.load(a + at) + tl.there_is_no_such_function(at))


@triton.jit
def broken_helper(x):
    tl.static_assert(False, "the reason lies here")
    return x


@triton.jit
def calls_broken_helper(a, c, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(c + at, broken_helper(tl.load(a + at)))


def gemm_case(config: str, m: int, n: int, k: int, warps: int, stages: int, kind: str = "*bf16") -> CompileCase:
    return CompileCase(
        op="gemm",
        config=config,
        kernel=gemm,
        signature={"a": kind, "b": kind, "c": "*fp32", "k_size": "i32"},
        constexprs={"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k},
        num_warps=warps,
        num_stages=stages,
        mma="e4m3" if kind == "*fp8e4nv" else "bf16",
        divisible=("k_size",),
    )


def scaled_case(config: str, fp4: bool) -> CompileCase:
    return CompileCase(
        op="scaled",
        config=config,
        kernel=scaled,
        signature={
            "a": "*fp8e4nv",
            "a_scale": "*u8",
            "b": "*u8" if fp4 else "*fp8e4nv",
            "b_scale": "*u8",
            "c": "*fp32",
            "k_size": "i32",
        },
        constexprs={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128, "FP4": fp4},
        num_warps=4,
        num_stages=2,
        mma="mxf8f6f4",
        divisible=("k_size",),
    )


def small_case(op: str, kernel: object, **changes: object) -> CompileCase:
    signature = {"a": "*fp32", "c": "*fp32"} | ({"size": "i32"} if kernel is copy else {})
    case = CompileCase(
        op=op, config="128", kernel=kernel, signature=signature, constexprs={"BLOCK": 128}, num_warps=4, mma=None
    )
    return replace(case, **changes)


GOOD = gemm_case("good", 64, 64, 64, 4, 3)
GOOD_FP8 = gemm_case("good fp8", 16, 128, 128, 4, 3, "*fp8e4nv")
GOOD_SCALED = scaled_case("native", fp4=False)
GOOD_COPY = small_case("copy", copy)
TOO_MUCH_SHARED = gemm_case("too much shared memory", 128, 128, 64, 8, 5)
SPILLS = gemm_case("spills", 128, 256, 32, 4, 2)
SPILLS_ALLOWED = replace(SPILLS, config="spills, allowed", spill_free=False)
EMULATED = scaled_case("emulated", fp4=True)
NO_SUCH_FUNCTION = small_case("wrong", wrong)
BROKEN_HELPER = small_case("helper", calls_broken_helper)
NO_TYPE = small_case("no type", copy, signature={"a": "*fp32", "c": "*fp32"})
HOPPER_ONLY = replace(GOOD, config="hopper", tiles="sm90")
UNDECLARED = replace(GOOD, config="undeclared", mma=None)
CASES = [
    GOOD, GOOD_FP8, GOOD_SCALED, GOOD_COPY, TOO_MUCH_SHARED, SPILLS, SPILLS_ALLOWED, EMULATED, NO_SUCH_FUNCTION, NO_TYPE,
    BROKEN_HELPER,
    HOPPER_ONLY, UNDECLARED,
]  # fmt: skip
ARCHS = ("sm_90", "sm_120", "sm_121")


@pytest.fixture(scope="module")
def gate() -> report.Report:
    return run.run_gate(CASES, ARCHS, cache=ResultCache(None), jobs=2, limit_s=120, seed=None)


def row_of(gate: report.Report, case: CompileCase, arch: str) -> report.Row:
    (row,) = [row for row in gate.rows if row.case is case and row.arch == arch]
    return row


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("case", [GOOD, GOOD_COPY, SPILLS_ALLOWED], ids=lambda case: case.config)
def test_a_good_configuration_passes_everywhere(gate: report.Report, case: CompileCase, arch: str) -> None:
    row = row_of(gate, case, arch)
    assert (row.verdict.outcome, row.verdict.reasons) == ("ok", ())
    assert row.measured.registers > 0
    assert row.measured.seconds > 0


@pytest.mark.parametrize("case, kind", [(GOOD, "bf16"), (GOOD_FP8, "e4m3"), (GOOD_SCALED, "mxf8f6f4")])
def test_native_instructions_are_recognised(gate: report.Report, case: CompileCase, kind: str) -> None:
    row = row_of(gate, case, "sm_120")
    assert row.measured.mma == (kind,)
    assert row.verdict.outcome == "ok"


def test_the_same_tile_uses_less_shared_memory_without_wgmma(gate: report.Report) -> None:
    # The numbers of kernels.md 2.0 for this tile.
    assert row_of(gate, GOOD, "sm_90").measured.shared == 49_152
    assert row_of(gate, GOOD, "sm_120").measured.shared == 32_768
    assert row_of(gate, GOOD, "sm_90").measured.mma == ("wgmma bf16",)


@pytest.mark.parametrize("arch", ["sm_120", "sm_121"])
def test_too_much_shared_memory_is_a_violation_on_sm12x_only(gate: report.Report, arch: str) -> None:
    row = row_of(gate, TOO_MUCH_SHARED, arch)
    assert row.measured.shared > 101_376
    assert row.verdict.outcome == "violation"
    assert row.verdict.reasons == (f"shared memory {row.measured.shared:,} B > 101,376 B",)
    hopper = row_of(gate, TOO_MUCH_SHARED, "sm_90")
    assert 101_376 < hopper.measured.shared <= 232_448
    assert hopper.verdict.outcome == "ok"


@pytest.mark.parametrize("arch", ARCHS)
def test_a_spill_is_a_violation(gate: report.Report, arch: str) -> None:
    row = row_of(gate, SPILLS, arch)
    assert row.measured.spilled > 0
    assert row.verdict.outcome == "violation"
    assert row.verdict.reasons == (f"spills {row.measured.spilled:,} B of registers a thread",)


def test_an_emulated_fp8_dot_is_a_violation(gate: report.Report) -> None:
    row = row_of(gate, EMULATED, "sm_120")
    assert row.verdict.outcome == "violation"
    assert row.verdict.reasons == ("expects MMA mxf8f6f4, the PTX has bf16: silent emulation",)
    assert row_of(gate, EMULATED, "sm_90").verdict.outcome == "ok"


def test_an_undeclared_dot_is_a_violation(gate: report.Report) -> None:
    assert row_of(gate, UNDECLARED, "sm_120").verdict.reasons == ("the case declares no MMA, the PTX has bf16",)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_compile_error_keeps_its_message_and_the_others_go_on(gate: report.Report, arch: str) -> None:
    row = row_of(gate, NO_SUCH_FUNCTION, arch)
    assert row.verdict.outcome == "error"
    assert "there_is_no_such_function" in row.verdict.reasons[0]
    assert "gives no type for size" in row_of(gate, NO_TYPE, arch).verdict.reasons[0]
    lines = row_of(gate, BROKEN_HELPER, arch).verdict.reasons[0].splitlines()
    assert lines[0] == "CompileTimeAssertionFailure: the reason lies here"
    assert any("broken_helper(tl.load(a + at))" in line for line in lines)
    assert len(gate.rows) == 3 * len(CASES) - 2  # the Hopper tile is not compiled for SM12x
    assert gate.failed


def test_wgmma_on_sm12x_is_a_violation(gate: report.Report) -> None:
    hopper = row_of(gate, GOOD, "sm_90").measured
    assert hopper.foreign == ("wgmma",)
    verdict = rules.judge(GOOD, "sm_120", hopper, "3.8.0")
    assert "wgmma in the PTX: SM12x has none" in verdict.reasons


def test_the_report_names_every_failure(gate: report.Report) -> None:
    table = report.table(gate.rows).splitlines()
    assert len(table) == 1 + len(gate.rows)
    assert table[0].split() == ["op", "config", "arch", "shared", "regs", "stack", "MMA", "s", "verdict"]
    assert all(line == line.rstrip() for line in table)
    details = report.details(gate.rows)
    assert "there_is_no_such_function" in details
    assert "gemm good sm_120" not in details
    assert report.summary(gate).startswith(f"FAIL: {len(gate.rows)} compilations for sm_90, sm_120, sm_121")


def test_the_document_holds_all_rows(gate: report.Report, tmp_path: Path) -> None:
    report.write(gate, tmp_path / "gate.json")
    data = json.loads((tmp_path / "gate.json").read_text())
    assert data["schema"] == "ds4-kernels.compile/1"
    assert data["triton"] == triton.__version__
    assert data["archs"] == list(ARCHS)
    assert data["passed"] is False
    assert sum(data["counts"].values()) == len(data["rows"]) == len(gate.rows)
    by_name = {(row["op"], row["config"], row["arch"]): row for row in data["rows"]}
    assert by_name["gemm", "good", "sm_120"]["shared"] == 32_768
    assert by_name["gemm", "good", "sm_120"]["constexprs"] == {"BLOCK_M": "64", "BLOCK_N": "64", "BLOCK_K": "64"}
    assert by_name["wrong", "128", "sm_120"]["shared"] is None


def test_a_second_run_knows_the_results(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cases = [GOOD_COPY, NO_SUCH_FUNCTION]
    first = run.run_gate(cases, ["sm_120"], cache=cache, jobs=2, limit_s=120, seed=None)
    second = run.run_gate(cases, ["sm_120"], cache=cache, jobs=2, limit_s=120, seed=None)
    assert [row.cached for row in first.rows] == [False, False]
    assert [row.cached for row in second.rows] == [True, False]  # a failure is tried again
    assert first.rows[0].measured == second.rows[0].measured
    for entry in tmp_path.rglob("*.json"):
        entry.write_text("{")
    third = run.run_gate(cases[:1], ["sm_120"], cache=cache, jobs=2, limit_s=120, seed=None)
    assert [row.cached for row in third.rows] == [False]


def test_the_fingerprint_sees_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [
        Task(GOOD_COPY, "sm_120"),
        Task(GOOD_COPY, "sm_121"),
        Task(replace(GOOD_COPY, num_warps=8), "sm_120"),
        Task(replace(GOOD_COPY, num_stages=2), "sm_120"),
        Task(replace(GOOD_COPY, constexprs={"BLOCK": 256}), "sm_120"),
        Task(replace(GOOD_COPY, signature={"a": "*fp32", "c": "*bf16", "size": "i32"}), "sm_120"),
        Task(replace(GOOD_COPY, divisible=("size",)), "sm_120"),
        Task(replace(GOOD_COPY, kernel=wrong), "sm_120"),
    ]
    prints = {fingerprint(task) for task in tasks}
    monkeypatch.setattr(triton, "__version__", "3.5.0")
    prints.add(fingerprint(tasks[0]))
    assert len(prints) == len(tasks) + 1
    monkeypatch.undo()
    renamed = replace(GOOD_COPY, op="other", config="other", mma="bf16", spill_free=False)
    assert fingerprint(Task(renamed, "sm_120")) == fingerprint(tasks[0])  # expectations are judged anew, not compiled


def test_the_command_says_pass_or_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(discover, "shipped_cases", lambda: [GOOD_COPY, GOOD, EMULATED])
    target = tmp_path / "gate.json"
    assert cli.main(["compile", "--arch", "sm_120", "--op", "copy", "--json", str(target)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASS: 1 compilations for sm_120")
    assert json.loads(target.read_text())["counts"] == {"ok": 1}
    assert cli.main(["compile", "--arch", "sm_120", "--op", "copy", "--op", "scaled", "--subset", "--seed", "3"]) == 1
    out = capsys.readouterr().out
    assert "scaled emulated sm_120:\n    expects MMA mxf8f6f4, the PTX has bf16: silent emulation" in out
    last = out.splitlines()[-1]
    assert last.startswith("FAIL: 2 compilations for sm_120 (subset of seed 3, 1 known from an earlier run)")
    assert "1 ok, 1 violation" in last


def test_a_group_stands_for_its_ops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(discover, "shipped_cases", lambda: [replace(GOOD_COPY, op="mqa_logits_wq"), EMULATED])
    assert cli.main(["compile", "--arch", "sm_120", "--op", "indexer"]) == 0
    assert "PASS: 1 compilations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--op", "nonsense"], "no such op: nonsense; there are: gemm"),
        (["--json", "/there/is/no/such/folder/x.json"], "--json: there is no folder /there/is/no/such/folder"),
        (["--arch", "sm_120"], "no configuration ships for sm_120"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discover, "shipped_cases", lambda: [HOPPER_ONLY])
    assert cli.main(["compile", *options]) == 2
    assert capsys.readouterr().err == f"ds4-kernels compile: {message}\n"
