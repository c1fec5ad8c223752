"""A serve on the ops: its options, and the profile that it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from ds4bench.embedded import __main__ as serve
from tests.serving import launched


@pytest.mark.integration
def test_a_stopped_serve_leaves_its_profile(tmp_path: Path) -> None:
    profile = tmp_path / "ops.json"
    arguments = ["--backend", "ops", "--num-blocks", "8", "--threads", "1", "--profile-ops", str(profile)]
    with launched(tmp_path, *arguments) as url, httpx.Client(base_url=url, timeout=100) as client:
        body = {"prompt": "The baker counted", "max_tokens": 3, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).status_code == 200
        flags = client.get("/version").json()["flags"]
        assert (flags["backend"], flags["num_layers"], flags["cuda_graphs"]) == ("ops", 6, False)
    phases = json.loads(profile.read_text())["phases"]
    assert phases["prefill"]["steps"] == 1
    assert phases["decode"]["steps"] == 1  # the first of an interval
    assert "mxfp4_moe" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dims", "flash", "--layers", "2"], "--dims flash runs on the ops backend"),
        (["--dims", "flash", "--backend", "ops"], "on a CPU --dims flash needs --layers"),
        (["--dims", "flash", "--backend", "ops", "--layers", "44"], "layers must be 1 to 43, not 44"),
        (["--layers", "3"], "--layers needs --dims flash"),
        (["--dims", "flash", "--weights", "somewhere"], "leave out --weights"),
        (["--profile-ops"], "--profile-ops times the ops backend"),
    ],
)
def test_options_that_exclude_each_other_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
