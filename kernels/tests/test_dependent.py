"""Who is launched before the kernel before it has ended. That such kernels wait first is a rule of the compile gate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")
from ds4_kernels.triton.dependent import dependent

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
ON, OFF = {"PDL": True, "launch_pdl": True}, {"PDL": False}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    dependent.cache_clear()
    yield
    dependent.cache_clear()


@pytest.mark.parametrize(
    ("capability", "variable", "expected"),
    [((9, 0), None, ON), ((12, 1), "1", ON), ((12, 0), "", ON), ((12, 0), "0", OFF), ((8, 9), None, OFF)],
)
def test_from_hopper_on_unless_switched_off(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], variable: str | None, expected: dict[str, bool]
) -> None:
    monkeypatch.delenv("DS4_KERNELS_PDL", raising=False)
    if variable is not None:
        monkeypatch.setenv("DS4_KERNELS_PDL", variable)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert dependent(CUDA) == expected
    assert dependent(CPU) == OFF


def test_another_word_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS_PDL", "maybe")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(ValueError, match="DS4_KERNELS_PDL is 'maybe'"):
        dependent(CUDA)
