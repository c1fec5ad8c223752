"""RMS norms: the contract against loops, the kernel under the interpreter against the contract."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.reference import norms as reference

EPS = 1e-6


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reference_follows_the_formula() -> None:
    x, weight = draw(3, 20, seed=1), draw(20, seed=2)
    x[1] *= 1e-4  # eps matters
    out = reference.rms_norm(x, weight, EPS)
    for row, result in zip(x.tolist(), out.tolist(), strict=True):
        rms = math.sqrt(sum(v * v for v in row) / 20 + EPS)
        assert result == pytest.approx([v / rms * w for v, w in zip(row, weight.tolist(), strict=True)], abs=1e-12)
    given = torch.empty_like(x)
    assert reference.rms_norm(x, None, EPS, out=given) is given and not torch.equal(given, out)


def test_mtp_normalises_every_stream() -> None:
    embeds, streams, a, b = draw(3, 8, seed=1), draw(3, 4, 8, seed=2), draw(8, seed=3), draw(8, seed=4)
    e, h = reference.mtp_fuse(embeds, streams, a, b, EPS)
    assert torch.equal(e, reference.rms_norm(embeds, a, EPS))
    for stream in range(4):
        assert torch.allclose(h[:, stream], reference.rms_norm(streams[:, stream], b, EPS))


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize(("rows", "dim"), [(1, 4096), (3, 1536), (5, 128), (70, 512), (2, 7168), (9, 100)])
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32, None])
def test_kernel(rows: int, dim: int, weight_dtype: torch.dtype | None) -> None:
    from ds4_kernels.triton import norms

    x = draw(rows, dim, seed=dim).bfloat16()
    weight = None if weight_dtype is None else draw(dim, seed=1).to(weight_dtype)
    ours, expected = norms.rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS)
    assert torch.allclose(ours.float(), expected.float(), rtol=2**-7, atol=1e-6)
    assert (ours != expected).float().mean() < 0.01


@pytest.mark.triton
@pytest.mark.interpreted
def test_kernel_takes_strided_rows_and_an_output() -> None:
    from ds4_kernels.triton import norms

    wide = torch.full((6, 300), torch.nan, dtype=torch.bfloat16)
    wide[:, :256] = draw(6, 256, seed=1).bfloat16()
    out = torch.full((6, 264), 7.0, dtype=torch.bfloat16)
    x, target, weight = wide[:, :256], out[:, :256], draw(256, seed=2).bfloat16()
    assert norms.rms_norm(x, weight, EPS, out=target) is target
    assert torch.allclose(target.float(), reference.rms_norm(x, weight, EPS).float(), rtol=2**-7, atol=1e-6)
    assert (out[:, 256:] == 7).all()


@pytest.mark.triton
@pytest.mark.interpreted
def test_mtp_kernel_and_checks() -> None:
    from ds4_kernels.triton import norms

    embeds, streams = draw(3, 128, seed=1).bfloat16(), draw(3, 4, 128, seed=2).bfloat16()
    a, b = draw(128, seed=3).bfloat16(), draw(128, seed=4).bfloat16()
    ours, theirs = (module.mtp_fuse(embeds, streams, a, b, EPS) for module in (norms, reference))
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.float(), expected.float(), rtol=2**-7, atol=1e-6)
    for bad in (
        lambda: norms.rms_norm(embeds.float(), a, EPS),
        lambda: norms.rms_norm(embeds, a[:64], EPS),
        lambda: norms.rms_norm(embeds, a, EPS, out=streams[:, 0, :64]),
        lambda: norms.rms_norm(embeds.T, None, EPS),
    ):
        with pytest.raises(ValueError):
            bad()
