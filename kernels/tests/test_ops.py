"""The op table and the choice of backend."""

from __future__ import annotations

import inspect

import pytest
import torch
from ds4_kernels import ops


def test_names_of_groups_and_ops() -> None:
    assert ops.names("attn") == [op.name for op in ops.TABLE.values() if op.group == "attn"]
    assert ops.names("mqa_logits_wq , attn")[0] == "mqa_logits_wq"
    assert ops.names() == list(ops.TABLE)
    with pytest.raises(ValueError, match=r"no op or group named 'attention'; groups: .*attn"):
        ops.names("attention")


@pytest.mark.parametrize(
    ("mode", "allowed", "backend", "reason"),
    [
        ("auto", None, "reference", "tensors are on cpu"),
        ("reference", None, "reference", "DS4_KERNELS=reference"),
        ("auto", "indexer", "reference", "not in DS4_KERNELS_OPS=indexer"),
        ("triton", None, "triton", "DS4_KERNELS=triton"),
    ],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, mode: str, allowed: str | None, backend: str, reason: str) -> None:
    monkeypatch.setenv("DS4_KERNELS", mode)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    if allowed:
        monkeypatch.setenv("DS4_KERNELS_OPS", allowed)
    choice = ops.choose("sparse_attention_decode", "cpu")
    assert (choice.backend, choice.reason) == (backend, reason)


def test_triton_on_a_cpu_without_the_interpreter_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    choice = ops.choose("mqa_logits_ragged", "cpu")
    assert choice.backend == "reference"
    assert "TRITON_INTERPRET=1" in choice.reason


def test_without_triton_everything_runs_on_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "has_triton", lambda: False)
    assert {choice.backend for choice in ops.describe("cpu")} == {"reference"}
    assert ops.choose("mqa_logits_ragged", "cuda").reason == "triton is not installed"


def test_a_bad_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS", "fast")
    with pytest.raises(ValueError, match="DS4_KERNELS is 'fast'; allowed: auto, off, force, reference, triton"):
        ops.choose("mqa_logits_ragged", "cpu")


def test_call_runs_the_reference_for_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS4_KERNELS", raising=False)
    q = torch.ones(1, 4, 128).to(torch.float8_e4m3fn)
    logits = ops.mqa_logits_wq(q, q[0], torch.ones(4), torch.ones(1, 4), relu=False)
    assert logits.tolist() == [[512.0] * 4]


def test_unknown_attributes_are_errors() -> None:
    with pytest.raises(AttributeError, match="has no op 'attention'"):
        _ = ops.attention


@pytest.mark.parametrize("name", list(ops.TABLE))
def test_both_backends_take_the_same_arguments(name: str) -> None:
    pytest.importorskip("triton")
    reference = inspect.signature(ops.implementation(name, "reference")).parameters
    kernel = inspect.signature(ops.implementation(name, "triton")).parameters
    shared = [parameter for parameter in reference if parameter != "dtype"]
    assert [parameter for parameter in kernel if parameter in reference] == shared
    extra = [kernel[parameter] for parameter in kernel if parameter not in reference]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in extra)


def test_tensors_are_found_inside_of_states() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    found = list(ops.tensors((3, {"state": (one, [two, None])}, "x")))
    assert found[0] is one and found[1] is two and len(found) == 2


def test_call_takes_the_device_of_a_tensor_inside_of_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    choose = ops.choose
    monkeypatch.setattr(ops, "choose", lambda name, device: (seen.append(device), choose(name, "cpu"))[1])
    monkeypatch.setattr(ops, "implementation", lambda name, backend: lambda *args: None)
    ops.call("finish", (torch.empty(1, device="meta"), torch.empty(1, device="meta")))
    assert seen == [torch.device("meta")]
