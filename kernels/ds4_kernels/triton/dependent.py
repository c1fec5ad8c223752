"""Programmatic dependent launch: the programs of a kernel are there when the kernel before it ends, so that a launch
costs less of the microseconds that a small kernel takes. Compute capability 9.0 and later; elsewhere nothing changes.

A kernel that is launched so must have waited before it reads what an earlier kernel wrote, or writes what one reads, and in
every program: who waits for this kernel takes all earlier ones to have ended too. Before it waits it may ask for weights, and
even for what the kernel before it is still writing (``fetch_into_l2``): a request to the L2 cache reads nothing, and all
multiprocessors write through that one cache.

Most kernels only wait. One that lets the next come at its start gives away places that its own programs, or pipelines of
the next, would have used: on an H200 decode attention was slower so, some cache writers were faster (docs/speed.md).
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from ds4_kernels import env


@functools.cache
def dependent(device: torch.device) -> dict[str, bool]:
    """Launch options and the constexpr ``PDL`` of a kernel that waits for the one before it by itself."""
    if (
        device.type != "cuda"
        or torch.cuda.get_device_capability(device)[0] < 9
        or not env.flag(env.DEPENDENT, unset=True)
    ):
        return {"PDL": False}
    return {"PDL": True, "launch_pdl": True}


@triton.jit
def wait(PDL: tl.constexpr):
    """Until every kernel before this one has ended and what it stored can be seen. A second time it costs nothing."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_start(PDL: tl.constexpr):
    """The next kernel's programs may take their places once all of this one have come here."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def enter(PDL: tl.constexpr):
    """For a kernel with nothing to do before what it waits for: wait, and let the next come."""
    wait(PDL)
    let_next_start(PDL)


@triton.jit
def fetch_into_l2(at, PDL: tl.constexpr):
    """Ask for the cache lines at pointers ``at``, for a kernel that loads them after its wait."""
    if PDL:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def fetch_rows_into_l2(rows, size, beside, PDL: tl.constexpr):
    """``fetch_into_l2`` of ``size`` bytes (not 0) from pointer ``rows`` on, both multiples of 16, and of the line at pointer
    ``beside``: two requests of one thread."""
    if PDL:
        tl.inline_asm_elementwise(
            "{ .reg .pred first; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 first, thread, 0;"
            " @first cp.async.bulk.prefetch.L2.global [$1], $2; @first prefetch.global.L2 [$3]; mov.u32 $0, 0; }",
            "=r,l,r,l", [rows.to(tl.int64), size, beside.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
