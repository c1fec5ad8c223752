"""`ds4bench compare` and `ds4bench import` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ds4bench.store.runs import RunWriter
from tests.verdicts.conftest import World

ROOT = Path(__file__).resolve().parents[1]


def ds4bench(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4BENCH_STATE_DIR": str(folder)}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def stored(folder: Path, name: str, *overrides: str) -> str:
    world = World()
    run = world.run(world.gate(*overrides))
    with RunWriter.create(msgspec.structs.replace(run.manifest, run_id=str(folder / name))) as writer:
        for row in run.requests:
            writer.append_request(row)
        for batch in run.batches:
            writer.append_batch(batch)
    return str(folder / name)


def test_compare_prints_a_table_and_json(tmp_path: Path) -> None:
    first, second = stored(tmp_path, "a"), stored(tmp_path, "b")
    out = ds4bench(tmp_path, "compare", first, second)
    assert out.returncode == 0, out.stderr
    assert "Latency seen from the client" in out.stdout
    assert (
        "rank p: Mann-Whitney over the repeats' means, two-sided; with these repeats it cannot go under 0.1"
        in out.stdout
    )
    document = json.loads(ds4bench(tmp_path, "compare", first, second, "--json").stdout)
    assert all(item["ratio"] == pytest.approx(1) for item in document["latencies"])
    assert {(item["rank"]["p"], item["rank"]["superiority"]) for item in document["latencies"]} == {(1.0, 0.5)}


def test_compare_says_why_it_refuses(tmp_path: Path) -> None:
    out = ds4bench(tmp_path, "compare", stored(tmp_path, "a"), stored(tmp_path, "b", "request.max_tokens=7"))
    assert out.returncode == 2
    assert "not compared: everything: request.max_tokens was" in out.stdout


def test_import_says_how_to_show_what_it_kept(tmp_path: Path) -> None:
    out = ds4bench(tmp_path, "import", str(ROOT / "tests" / "store" / "data" / "vllm-bench-0.32.json"), "--name", "old")
    assert out.returncode == 0, out.stderr
    assert "--beside old" in out.stdout
    assert (tmp_path / "imports" / "old.yaml").is_file()


def test_import_of_a_missing_file_is_one_line(tmp_path: Path) -> None:
    out = ds4bench(tmp_path, "import", "nothing.json")
    assert out.returncode == 2
    assert "nothing.json: cannot be read" in out.stderr
