"""One meaning of DS4_KERNELS for the op table and for the plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ds4_kernels import env, ops
from ds4_kernels.engines import selection


@pytest.mark.parametrize(
    ("mode", "capability", "active", "reason"),
    [
        ("auto", (12, 0), True, "DS4_KERNELS=auto on sm_120"),
        ("auto", (12, 1), True, "DS4_KERNELS=auto on sm_121"),
        ("auto", (9, 0), False, "DS4_KERNELS=auto replaces nothing on sm_90 (SM12x only; force would)"),
        ("force", (9, 0), True, "DS4_KERNELS=force on sm_90"),
        ("force", None, False, "tensors are not on a CUDA GPU"),
        ("off", (12, 0), False, "DS4_KERNELS=off"),
        ("reference", None, True, "DS4_KERNELS=reference"),
        ("triton", (9, 0), True, "DS4_KERNELS=triton"),
    ],
)
def test_where_the_hooks_are_active(mode: str, capability: Any, active: bool, reason: str) -> None:
    assert selection.decide(mode, capability) == selection.Decision(active, reason)


def test_groups_and_ops_select_hooks() -> None:
    settings = env.Settings(ops="attn,mhc_post")
    chosen = [
        name for name in ("sparse_attention_decode", "mhc_post", "mhc_pre") if selection.selected(name, settings).active
    ]
    assert chosen == ["sparse_attention_decode", "mhc_post"]
    assert not selection.selected("mhc_post", env.Settings(mode="off")).active


@pytest.mark.parametrize(("mode", "backend"), [("off", "reference"), ("force", "reference"), ("auto", "reference")])
def test_the_op_table_knows_the_modes_too(monkeypatch: Any, mode: str, backend: str) -> None:
    monkeypatch.setenv("DS4_KERNELS", mode)
    assert ops.choose("mhc_post", "cpu").backend == backend


def test_settings_are_read_from_the_environment(monkeypatch: Any) -> None:
    for name, value in {
        "": "force", "_OPS": "attn", "_STRICT": "1", "_SHADOW": "0", "_REPORT": "/tmp/r",
        "_SABOTAGE": "mhc_post:1.5, finish:0",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"DS4_KERNELS{name}", value)
    assert env.read() == env.Settings("force", "attn", True, False, Path("/tmp/r"), {"mhc_post": 1.5, "finish": 0.0})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DS4_KERNELS", "fast", "DS4_KERNELS is 'fast'; allowed: auto, off, force, reference, triton"),
        ("DS4_KERNELS_STRICT", "yes", "DS4_KERNELS_STRICT is 'yes'; allowed: 0, 1"),
        ("DS4_KERNELS_SABOTAGE", "mhc_post", "has 'mhc_post'; write op:scale"),
    ],
)
def test_a_bad_value_names_the_variable(monkeypatch: Any, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        env.read()


def test_sabotage_makes_an_op_of_the_embedded_engine_wrong(monkeypatch: Any) -> None:
    x = torch.ones(2, 128, dtype=torch.bfloat16)
    weight = torch.ones(128, dtype=torch.bfloat16)
    good = ops.rms_norm(x, weight, 1e-6)
    monkeypatch.setenv("DS4_KERNELS_SABOTAGE", "rms_norm:3")
    assert torch.equal(ops.rms_norm(x, weight, 1e-6), good * 3)
    assert torch.equal(ops.implementation("rms_norm", "reference")(x, weight, 1e-6), good)
