"""The doctor with stand-ins for the devices and the op table."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from ds4_kernels import cli, doctor, ops
from ds4_kernels.triton import arch

OPS = [
    SimpleNamespace(op="mqa_logits", backend="triton", reason="CUDA"),
    SimpleNamespace(op="fp8_einsum", backend="reference", reason="Triton is not installed"),
    SimpleNamespace(op="cache_insert", backend="triton", reason="CUDA"),
]
CARDS = {
    "workstation": ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0), 101_376, 188),
    "gb10": ("NVIDIA GB10", (12, 1), 101_376, 48),
    "h200": ("NVIDIA H200", (9, 0), 232_448, 132),
    "a100": ("NVIDIA A100", (8, 0), 166_912, 108),
}


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(ops, "describe", lambda: OPS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_triton_version", lambda: "3.8.0")


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch):
    """Let torch find the cards of these names."""

    def put(*names: str) -> None:
        cards = [CARDS[name] for name in names]
        properties = [
            SimpleNamespace(
                name=name,
                major=capability[0],
                minor=capability[1],
                shared_memory_per_block_optin=shared,
                total_memory=96 << 30,
                multi_processor_count=multiprocessors,
            )
            for name, capability, shared, multiprocessors in cards
        ]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties[index])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[device.index][1])
        arch.tile_set.cache_clear()

    yield put
    arch.tile_set.cache_clear()


def test_without_a_gpu_it_says_so_and_what_is_possible() -> None:
    found = doctor.diagnose()
    assert found.devices == ()
    (hint,) = found.hints
    assert hint.startswith("no CUDA device")
    assert "ds4-kernels compile" in hint
    text = doctor.text(found)
    assert "No CUDA device." in text
    assert f"torch {torch.__version__}" in text


def test_ops_stand_together_by_backend_and_reason() -> None:
    text = doctor.text(doctor.diagnose())
    assert "\n2 ops on triton (CUDA):\n  mqa_logits, cache_insert\n" in text
    assert "\n1 op on reference (Triton is not installed):\n  fp8_einsum\n" in text


def test_devices_with_tiles_and_tuning(plug) -> None:
    plug("workstation", "h200")
    found = doctor.diagnose()
    assert [device.arch for device in found.devices] == ["sm_120", "sm_90"]
    assert [device.tile_set for device in found.devices] == ["sm12x", "sm90"]
    assert [device.shared_memory for device in found.devices] == [101_376, 232_448]
    assert [device.tuning_table for device in found.devices] == [
        "RTX_PRO_6000_Blackwell_Workstation_Edition",
        "NVIDIA_H200",
    ]
    assert found.hints == ()
    text = doctor.text(found)
    assert "device 0: NVIDIA RTX PRO 6000 Blackwell Workstation Edition, sm_120, 188 multiprocessors, 96.0 GiB" in text
    assert "shared memory a block may use: 101,376 B; tiles: sm12x" in text
    assert "  tuning table: NVIDIA_H200\n" in text


@pytest.mark.parametrize(
    "card, version, hinted",
    [("gb10", "3.6.0", True), ("gb10", "3.8.0", False), ("gb10", "3.10.1", False), ("workstation", "3.6.0", False)],
)
def test_half_rate_fp8_is_hinted_on_gb10_with_old_triton(
    plug, monkeypatch: pytest.MonkeyPatch, card: str, version: str, hinted: bool
) -> None:
    plug(card)
    monkeypatch.setattr(doctor, "_triton_version", lambda: version)
    hints = doctor.diagnose().hints
    assert any("half rate" in hint and version in hint for hint in hints) is hinted
    assert len(hints) == int(hinted)


def test_an_untested_gpu_and_a_missing_triton_are_hinted(plug, monkeypatch: pytest.MonkeyPatch) -> None:
    plug("a100")
    monkeypatch.setattr(doctor, "_triton_version", lambda: None)
    hints = " ".join(doctor.diagnose().hints)
    assert "Triton is not installed" in hints
    assert "NVIDIA A100) is sm_80" in hints
    text = doctor.text(doctor.diagnose())
    assert "Triton not installed" in text
    assert "tuning table: default (no tile table for 'NVIDIA A100'" in text


def test_the_interpreter_is_hinted_beside_a_gpu(plug, monkeypatch: pytest.MonkeyPatch) -> None:
    plug("workstation")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (hint,) = doctor.diagnose().hints
    assert "TRITON_INTERPRET=1 is set" in hint


def test_the_real_op_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    states = {state.op: state for state in doctor.diagnose().ops}
    assert set(states) == set(ops.TABLE)
    assert {state.backend for state in states.values()} <= {"reference", "triton"}


def test_json_is_one_document(plug, capsys: pytest.CaptureFixture[str]) -> None:
    plug("gb10")
    assert cli.main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "ds4-kernels.doctor/1"
    assert data["devices"][0]["capability"] == [12, 1]
    assert data["ops"][1] == {"op": "fp8_einsum", "backend": "reference", "reason": "Triton is not installed"}
    assert data["triton"] == "3.8.0"


def test_the_command_prints_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == doctor.text(doctor.diagnose()) + "\n"
