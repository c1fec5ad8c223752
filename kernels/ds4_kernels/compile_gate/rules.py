"""What a compiled configuration must satisfy on its architecture. Pure functions: no compiler, no files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.triton.compile_case import CompileCase

CAPABILITY = {"sm_90": 90, "sm_120": 120, "sm_121": 121}
"""Architectures the gate knows, and Triton's number for each."""

SHARED_LIMIT = {"sm_90": 232_448, "sm_120": 101_376, "sm_121": 101_376}
"""Bytes of dynamic shared memory that one block may use."""

HALF_RATE_FP8 = "half-rate FP8 before Triton 3.8"
"""Triton 3.6 and 3.7 widen FP8 operands to 16 bits on sm_121 (GB10): right results at half the rate."""

Outcome = Literal["ok", "downgrade", "violation", "error"]


@dataclass(frozen=True)
class Verdict:
    """``outcome`` decides the exit code (the last two fail); ``reasons`` say why, one line each."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the gate must fail."""
        return self.outcome in ("violation", "error")


def triton_before_38(version: str) -> bool:
    """Whether this Triton still lowers FP8 dots for sm_121 to 16-bit instructions (kernels.md 2.0)."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return numbers < [3, 8]


def applies(case: CompileCase, arch: str) -> bool:
    """Hopper tiles ship on sm_90 only; SM12x tiles run everywhere."""
    return case.tiles == "sm12x" or arch == "sm_90"


def judge(case: CompileCase, arch: str, measured: Measurement, triton_version: str) -> Verdict:
    """The verdict on one configuration. On sm_90 only compile errors, shared memory, waits and spills count."""
    if measured.error is not None:
        return Verdict("error", (measured.error,))
    reasons = _shared_violations(arch, measured) + _wait_violations(case, measured)
    spills = _spills(case, measured)
    downgrade = arch == "sm_121" and triton_before_38(triton_version) and _half_rate(case, measured)
    if arch != "sm_90":
        reasons += [f"{name} in the PTX: SM12x has none" for name in measured.foreign]
    if downgrade and not reasons:
        # Widened operands need more registers: spills belong to the downgrade.
        return Verdict("downgrade", (HALF_RATE_FP8, *spills))
    if arch != "sm_90" and not downgrade:
        reasons += _mma_violations(case, measured)
    reasons += spills
    return Verdict("violation", tuple(reasons)) if reasons else Verdict("ok")


def _shared_violations(arch: str, measured: Measurement) -> list[str]:
    limit = SHARED_LIMIT[arch]
    return [f"shared memory {measured.shared:,} B > {limit:,} B"] if measured.shared > limit else []


def _wait_violations(case: CompileCase, measured: Measurement) -> list[str]:
    """A kernel that is launched before the one before it has ended: see ``triton.dependent``."""
    if not case.constexprs.get("PDL"):
        return []
    if measured.early is None:
        return ["is launched before the kernel before it has ended, and never waits for that"]
    found = set(measured.early) - ({"ld"} if case.early_reads else set())
    return [f"{_names(found)} on global memory before it waits for the kernel before it"] if found else []


def _spills(case: CompileCase, measured: Measurement) -> list[str]:
    found = case.spill_free and measured.spilled > 0
    return [f"spills {measured.spilled:,} B of registers a thread"] if found else []


def _mma_violations(case: CompileCase, measured: Measurement) -> list[str]:
    """The PTX must hold exactly the declared instruction: any other means that a dot is emulated without a word."""
    found = set(measured.mma)
    if case.mma is None:
        return [f"the case declares no MMA, the PTX has {_names(found)}"] if found else []
    if case.mma not in found:
        return [f"expects MMA {case.mma}, the PTX has {_names(found)}: silent emulation"]
    others = found - {case.mma}
    return [f"expects MMA {case.mma} only, the PTX also has {_names(others)}: part is emulated"] if others else []


def _half_rate(case: CompileCase, measured: Measurement) -> bool:
    found = set(measured.mma)
    widened = bool(found) and found <= {"f16", "bf16"}
    return case.mma in ("e4m3", "mxf8f6f4") and widened


def _names(kinds: set[str]) -> str:
    return ", ".join(sorted(kinds)) or "none"
