# mypy: ignore-errors
"""Triton kernel of ``rope``."""

import triton
import triton.language as tl


@triton.jit
def rotate(x, cos_sin, out, rows, heads, positions, sign, SIZE: tl.constexpr, ROPED: tl.constexpr, ROWS: tl.constexpr):
    """Copies rows ``[rows, SIZE]`` and turns the pairs of their last ROPED values; row r is of position r / heads."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = (row < rows)[:, None]
    column = tl.arange(0, SIZE)
    place = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    angle = column - (SIZE - ROPED)
    roped = angle >= 0
    pair = tl.where(roped, angle // 2, 0)
    table = ((row // heads) % positions)[:, None] * ROPED + pair[None, :]
    cos = tl.load(cos_sin + table, mask=live & roped[None, :], other=1.0)
    sin = tl.load(cos_sin + table + ROPED // 2, mask=live & roped[None, :], other=0.0) * sign
    other = row.to(tl.int64)[:, None] * SIZE + (column ^ 1)[None, :]
    value = tl.load(x + place, mask=live, other=0.0).to(tl.float32)
    beside = tl.load(x + other, mask=live & roped[None, :], other=0.0).to(tl.float32)
    sin = tl.where((column % 2 == 0)[None, :], -sin, sin)
    tl.store(out + place, value * cos + beside * sin, mask=live)
