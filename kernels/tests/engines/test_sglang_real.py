"""The plugin in a real SGLang 0.5.23 on a CPU: loaded by SGLang, hooks in SGLang's registry, beside SGLang's own fallbacks.

DS4BENCH_TEST_SGLANG_PYTHON names an interpreter that can import SGLang and finds ``ds4-kernels`` as a distribution.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine
OPTIONAL = "mqa_logits_paged@tilelang_fp8_paged_mqa_logits"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the plugin tells after both ran."""
    python = os.environ.get("DS4BENCH_TEST_SGLANG_PYTHON")
    if not python:
        pytest.skip("DS4BENCH_TEST_SGLANG_PYTHON names no interpreter with SGLang")
    folder = tmp_path_factory.mktemp("report")
    environment = {
        **os.environ, "DS4_KERNELS": "reference", "DS4_KERNELS_SHADOW": "1", "DS4_KERNELS_REPORT": str(folder),
        "SGLANG_SM120_TRITON_FLASHMLA": "0",
    }  # fmt: skip
    script = str(Path(__file__).with_name("sglang_shadow.py"))
    done = subprocess.run([python, script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    [path] = folder.glob("ds4-kernels-sglang-*.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_every_hook_is_installed_by_signature_in_the_real_modules(report: dict[str, Any]) -> None:
    states = {hook["hook"]: hook["state"] for hook in report["hooks"]}
    assert (report["version"], report["table"], len(states)) == ("0.5.23", "0.5.23", 9)
    assert {state for name, state in states.items() if name != OPTIONAL} == {"installed"}
    assert states[OPTIONAL] in ("installed", "pending")


def test_ours_and_sglangs_fallbacks_agree(report: dict[str, Any]) -> None:
    ran = {hook["hook"]: hook for hook in report["hooks"] if hook["calls"]}
    assert {name: hook["calls"] for name, hook in ran.items()} == {
        "sparse_attention_decode@flash_mla_with_kvcache_sm120": 2,
        "mqa_logits_paged@fp8_paged_mqa_logits_torch_sm120": 1,
    }
    for hook in ran.values():
        [difference] = hook["shadow"].values()
        assert difference["min_cosine"] > 0.99999  # SGLang's logits go through BF16
        assert difference["mismatch"] == 0
