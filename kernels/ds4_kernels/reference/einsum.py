"""The grouped output projection: inverse rope and FP8 quantisation of the attention output, then "bhr,hdr->bhd".

The quantised activation is stored group-major and its scales with the tokens innermost, padded to a multiple of
``TOKEN_ALIGN`` tokens with zeros: the forms that a block-scaled FP8 GEMM can copy as they are (kernels.md 2.5).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ds4_kernels.reference import quant, w8a8
from ds4_kernels.reference.norm_rope import apply_rope_

HEAD_DIM = 512
ROPE_DIM = 64
GROUP = quant.WEIGHT_BLOCK
AMAX_FLOOR = 1e-10
TOKEN_ALIGN = 4
SCALES_PER_WORD = 4

ScaleFormat = Literal["fp32", "packed"]


def inverse_rope_quant(
    o: Tensor, positions: Tensor, cos_sin: Tensor, groups: int, scale_format: ScaleFormat = "fp32"
) -> tuple[Tensor, Tensor]:
    """Undo the rope of the attention output and quantise it: (e4m3 ``[T, G, K]``, scale), with ``K = H 512 / G``.

    o is BF16 ``[T, H, 512]``, positions int32 or int64 ``[T]`` (clamped to the table), cos_sin FP32 ``[max_pos, 64]``:
    32 cosines, then 32 sines. The last 64 dimensions of a head are rotated back in FP32 and not rounded before they
    are quantised. Scales are ``2^ceil(log2(max(amax, 1e-10) / 448))`` per 128 of K: ``fp32`` is ``[T, G, K/128]``,
    ``packed`` int32 ``[T, G, K/512]``, four E8M0 bytes a word, the first lowest. The values are a view of storage
    ``[G, T, K]``, the scales of ``[G, K/128 or K/512, T rounded up to 4]``, zero after token T.
    Raises ValueError for other shapes or dtypes.
    """
    check_inverse_rope_quant(o, positions, cos_sin, groups, scale_format)
    tokens, heads, _ = o.shape
    table = cos_sin[positions.long().clamp(0, cos_sin.shape[0] - 1)]
    width = heads * HEAD_DIM // groups
    x = apply_rope_(o.to(torch.float32), table, inverse=True).view(tokens, groups, width // GROUP, GROUP)
    scale = quant.group_scale(x.abs().amax(dim=-1), quant.E4M3_MAX, AMAX_FLOOR)
    q = (x / scale.unsqueeze(-1)).clamp_(-quant.E4M3_MAX, quant.E4M3_MAX).to(torch.float8_e4m3fn)
    values = torch.empty(groups, tokens, width, dtype=torch.uint8, device=o.device)
    values.copy_(q.view(torch.uint8).flatten(2).transpose(0, 1))
    if scale_format == "packed":
        scale = quant.e8m0_encode(scale).view(torch.int32)
    return values.view(torch.float8_e4m3fn).transpose(0, 1), token_major(scale)


def token_major(scale: Tensor) -> Tensor:
    """The same scales ``[T, G, S]`` as a view of storage ``[G, S, T rounded up to 4]`` that is zero after token T."""
    tokens, groups, per_token = scale.shape
    padded = -(-tokens // TOKEN_ALIGN) * TOKEN_ALIGN
    storage = torch.zeros(groups, per_token, padded, dtype=scale.dtype, device=scale.device)
    storage[:, :, :tokens] = scale.permute(1, 2, 0)
    return storage[:, :, :tokens].permute(2, 0, 1)


def fp8_einsum(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor | None = None) -> Tensor:
    """Per group ``g``: ``out[:, g] = a[:, g] @ b[g].T`` with block scales, BF16 ``[T, G, N]``.

    a is e4m3 ``[T, G, K]`` (any strides with K innermost), a_scale FP32 ``[T, G, K/128]`` or packed int32
    ``[T, G, K/512]``, b e4m3 ``[G, N, K]``, b_scale FP32 or E8M0 ``[G, N/128, K/128]`` (N/128 rounded up).
    ``out`` is written and returned if given. Raises ValueError for other shapes or dtypes.
    """
    check_einsum(a, a_scale, b, b_scale, out)
    scale = unpack_scales(a_scale) if a_scale.dtype == torch.int32 else a_scale
    left = w8a8.dequantized(a.view(torch.uint8).contiguous().view(torch.float8_e4m3fn), scale)
    right = w8a8.dequantized(b, b_scale, rows=w8a8.BLOCK)
    product = torch.einsum("tgk,gnk->tgn", left, right)
    return product.to(torch.bfloat16) if out is None else out.copy_(product)


def unpack_scales(packed: Tensor) -> Tensor:
    """E8M0 bytes ``[..., 4 S]`` from int32 words ``[..., S]``, the lowest byte first."""
    return packed.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def check_inverse_rope_quant(o: Tensor, positions: Tensor, cos_sin: Tensor, groups: int, scale_format: str) -> None:
    """The argument checks of ``inverse_rope_quant``: ValueError with one line."""
    if o.dim() != 3 or o.shape[2] != HEAD_DIM or o.dtype != torch.bfloat16:
        raise ValueError(f"o must be bfloat16 [T, H, {HEAD_DIM}], not {o.dtype} {list(o.shape)}")
    if groups < 1 or o.shape[1] % groups:
        raise ValueError(f"{o.shape[1]} heads do not divide into {groups} groups")
    if positions.shape != o.shape[:1] or positions.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"positions must be int32 or int64 [{o.shape[0]}], not {positions.dtype} {positions.shape}")
    if cos_sin.dim() != 2 or cos_sin.shape[1] != ROPE_DIM or cos_sin.dtype != torch.float32:
        raise ValueError(f"cos_sin must be float32 [max_pos, {ROPE_DIM}], not {cos_sin.dtype} {list(cos_sin.shape)}")
    if scale_format not in ("fp32", "packed"):
        raise ValueError(f"scale_format must be 'fp32' or 'packed', not {scale_format!r}")


def check_einsum(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor | None) -> None:
    """The argument checks of ``fp8_einsum``: ValueError with one line."""
    if a.dim() != 3 or b.dim() != 3 or (a.shape[1], a.shape[2]) != (b.shape[0], b.shape[2]) or a.shape[2] % GROUP:
        raise ValueError(f"need a [T, G, K] and b [G, N, K], K a multiple of 128: a {list(a.shape)}, b {list(b.shape)}")
    (tokens, groups, k), n = a.shape, b.shape[1]
    packed = a_scale.dtype == torch.int32
    w8a8.check_operands(a, b_scale if packed else a_scale, b, b_scale)
    per_token = k // GROUP // SCALES_PER_WORD if packed else k // GROUP
    if packed and k % (GROUP * SCALES_PER_WORD):
        raise ValueError(f"packed scales need K to be a multiple of {GROUP * SCALES_PER_WORD}, not {k}")
    if a_scale.shape != (tokens, groups, per_token):
        raise ValueError(f"a_scale must be [{tokens}, {groups}, {per_token}], not {list(a_scale.shape)}")
    if b_scale.shape != (groups, -(-n // GROUP), k // GROUP):
        raise ValueError(f"b_scale must be [{groups}, {-(-n // GROUP)}, {k // GROUP}], not {list(b_scale.shape)}")
    if out is not None and (out.shape != (tokens, groups, n) or out.dtype != torch.bfloat16):
        raise ValueError(f"out must be bfloat16 [{tokens}, {groups}, {n}], not {out.dtype} {list(out.shape)}")
