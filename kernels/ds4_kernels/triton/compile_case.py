"""One shipped configuration of one kernel, described so that it can be compiled without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MmaKind = Literal["bf16", "e4m3", "mxf8f6f4", "tf32"]


@dataclass(frozen=True)
class CompileCase:
    """What ``triton.compile`` needs and what the gate expects of the result.

    ``signature`` maps every argument that is not a constexpr to its Triton type: "*bf16", "*fp8e4nv", "*u8", "*fp32",
    "*i32", "*i64", "i32", "i64", "fp32". Pointers are taken to be 16-byte aligned; ``divisible`` names integer
    arguments that are multiples of 16 besides. ``mma`` is the tensor-core instruction that must appear on SM12x (None: no
    dot in the kernel). ``tiles`` says which tile set ships it: "sm12x" cases are compiled for every arch, "sm90" cases
    only for sm_90. ``early_reads``: launched dependently (``triton.dependent``), it reads what is older than the kernel
    before it (weights) before it waits.
    """

    op: str
    config: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int = 1
    mma: MmaKind | None = None
    spill_free: bool = True
    tiles: Literal["sm12x", "sm90"] = "sm12x"
    divisible: tuple[str, ...] = field(default=())
    early_reads: bool = False
