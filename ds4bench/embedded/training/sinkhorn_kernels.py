# mypy: ignore-errors
"""Triton kernels of ``sinkhorn``: a program keeps the 4 x 4 matrices of some tokens in registers."""

import triton
import triton.language as tl


@triton.jit
def _places(count, TOKENS: tl.constexpr):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    four = tl.arange(0, 4)
    matrix = token[:, None, None] * 16 + four[None, :, None] * 4 + four[None, None, :]
    row = token[:, None] * 4 + four[None, :]
    return matrix, row, (token < count)[:, None, None], (token < count)[:, None]


@triton.jit
def forward(logits, out, sums, iterations, eps, count, TOKENS: tl.constexpr):
    """Softmax over the last dimension, then columns and rows in turn; ``sums [2 iterations, N, 4]`` for the way back.

    ``sums[0]`` is not used; step i >= 1 is a division over columns when i is odd, over rows when it is even.
    """
    matrix, row, live, live_row = _places(count, TOKENS)
    x = tl.load(logits + matrix, mask=live, other=0.0)
    x = tl.exp(x - tl.max(x, axis=2)[:, :, None])
    x = x / tl.sum(x, axis=2)[:, :, None] + eps
    stride = count.to(tl.int64) * 4
    total = tl.sum(x, axis=1) + eps
    tl.store(sums + stride + row, total, mask=live_row)
    x = x / total[:, None, :]
    for i in range(1, iterations):
        total = tl.sum(x, axis=2) + eps
        tl.store(sums + 2 * i * stride + row, total, mask=live_row)
        x = x / total[:, :, None]
        total = tl.sum(x, axis=1) + eps
        tl.store(sums + (2 * i + 1) * stride + row, total, mask=live_row)
        x = x / total[:, None, :]
    tl.store(out + matrix, x, mask=live)


@triton.jit
def backward(grad_out, out, sums, grad, iterations, eps, count, TOKENS: tl.constexpr):
    """``y = x / s``: dx = (dy - sum(dy y)) / s and x = y s, from the last step to the first; then the softmax."""
    matrix, row, live, live_row = _places(count, TOKENS)
    y = tl.load(out + matrix, mask=live, other=0.0)
    dy = tl.load(grad_out + matrix, mask=live, other=0.0)
    stride = count.to(tl.int64) * 4
    for back in range(1, iterations):
        i = iterations - back
        total = tl.load(sums + (2 * i + 1) * stride + row, mask=live_row, other=1.0)
        dy = (dy - tl.sum(dy * y, axis=1)[:, None, :]) / total[:, None, :]
        y = y * total[:, None, :]
        total = tl.load(sums + 2 * i * stride + row, mask=live_row, other=1.0)
        dy = (dy - tl.sum(dy * y, axis=2)[:, :, None]) / total[:, :, None]
        y = y * total[:, :, None]
    total = tl.load(sums + stride + row, mask=live_row, other=1.0)
    dy = (dy - tl.sum(dy * y, axis=1)[:, None, :]) / total[:, None, :]
    p = y * total[:, None, :] - eps
    dy = p * (dy - tl.sum(dy * p, axis=2)[:, :, None])
    tl.store(grad + matrix, dy, mask=live)
