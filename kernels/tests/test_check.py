"""``ds4-kernels check``: what it refuses."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import pytest
import torch
from ds4_kernels import check, ops


def run(device: str) -> int:
    return check.main(argparse.Namespace(op=["rms_norm"], device=device, seed=1, json=None, large=False))


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("cuda") == 2
    assert capsys.readouterr().err.startswith("check: no CUDA device here; --device cpu runs")


def test_no_triton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ops, "has_triton", lambda: False)
    assert run("cpu") == 2
    assert capsys.readouterr().err == "check: triton is not installed\n"


def test_the_interpreter_without_numpy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec = importlib.util.find_spec

    def without_numpy(name: str) -> Any:
        return None if name == "numpy" else find_spec(name)

    monkeypatch.setattr(ops, "has_triton", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", without_numpy)
    assert run("cpu") == 2
    assert "pip install 'ds4-kernels[interpreter]'" in capsys.readouterr().err
