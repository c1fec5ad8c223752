"""Where the model's operands are BF16 by contract, a CPU may multiply them as BF16 and accumulate in FP32.

Keys, values and quantised activations and weights are exactly representable in BF16; queries and softmax weights are
BF16 on every engine. CPUs with AVX512-BF16 or AMX then run FP32 matmuls several times faster; others ignore it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

MIN_ROWS = 32
"""Fewer rows are bound by reading the other operand, and converting it costs more than it saves."""


@contextmanager
def bf16_products(rows: int) -> Iterator[None]:
    """Inside, CPU matmuls of FP32 may use BF16 products if there are ``MIN_ROWS`` rows or more. FP64 is untouched."""
    if rows < MIN_ROWS:
        yield
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
