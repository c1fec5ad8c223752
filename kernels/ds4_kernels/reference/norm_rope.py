"""RMS norms and DeepSeek-V4's rotary embedding (GPT-J interleaved pairs on the last dimensions of a head)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x * rsqrt(mean(x^2) + eps) * weight`` over the last dimension; ``weight`` None is the weightless form."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_frequencies(
    rope_dim: int,
    theta: float,
    *,
    yarn_factor: float | None = None,
    original_max_position: int = 65_536,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> Tensor:
    """Inverse frequencies FP64 ``[rope_dim / 2]``; with ``yarn_factor`` the YaRN interpolation (arXiv:2309.00071).

    Dimensions that turn more than ``beta_fast`` times over the original length keep their frequency, those that turn
    less than ``beta_slow`` times are slowed by the factor, and a linear ramp joins the two. No attention temperature.
    """
    exponent = torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
    freqs = theta**-exponent
    if yarn_factor is None:
        return freqs

    def turns_at(turns: float) -> float:
        return rope_dim * math.log(original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(turns_at(beta_fast)), 0)
    high = min(math.ceil(turns_at(beta_slow)), rope_dim - 1)
    ramp = ((torch.arange(rope_dim // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return freqs / yarn_factor * ramp + freqs * (1 - ramp)


def cos_sin_table(freqs: Tensor, max_position: int, dtype: torch.dtype) -> Tensor:
    """Table ``[max_position, rope_dim]``: the cosines, then the sines, of every position."""
    angle = torch.outer(torch.arange(max_position, dtype=torch.float64), freqs)
    return torch.cat((angle.cos(), angle.sin()), dim=-1).to(dtype)


def apply_rope_(x: Tensor, cos_sin: Tensor, *, inverse: bool = False) -> Tensor:
    """Rotate the last ``cos_sin.shape[-1]`` dimensions of ``x`` in place and return it.

    ``x`` is ``[T, ..., D]`` and ``cos_sin`` ``[T, rope_dim]`` (rows of ``cos_sin_table`` at the tokens' positions).
    ``inverse`` applies the conjugate rotation.
    """
    rope_dim = cos_sin.shape[-1]
    shape = (cos_sin.shape[0],) + (1,) * (x.dim() - 2) + (rope_dim // 2,)
    cos = cos_sin[:, : rope_dim // 2].view(shape)
    sin = cos_sin[:, rope_dim // 2 :].view(shape)
    if inverse:
        sin = -sin
    even, odd = x[..., -rope_dim::2], x[..., x.shape[-1] - rope_dim + 1 :: 2]
    rotated_even = even * cos - odd * sin
    rotated_odd = odd * cos + even * sin
    even.copy_(rotated_even)
    odd.copy_(rotated_odd)
    return x
