"""`ds4bench compare` and `ds4bench import` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ds4bench.core import Answer, Fingerprint, ScriptRow
from ds4bench.spec.load import load_gate
from ds4bench.store.runs import RunWriter
from tests.records import batch_row, run_manifest
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


def stored_battery(folder: Path, name: str, modes: dict[str, list[float]]) -> str:
    """A run of the battery with these shares of points, mode by mode, as the workload stores them."""
    gate = load_gate("toolcall-15", directory=ROOT / "gates")
    told = run_manifest(gate, run_id=str(folder / name), fingerprint=Fingerprint(engine="e", model="m"))
    with RunWriter.create(told) as writer:
        for mode, shares in modes.items():
            for place, share in enumerate(shares):
                key = f"TC-{place + 1:02}"
                answer = Answer(scores={"points": share, key.lower(): share})
                writer.append_script(
                    ScriptRow(
                        cell=mode, repeat=0, attempt=0, phase="measure", script=place, key=key, requests=1, answer=answer
                    )
                )  # fmt: skip
            writer.append_batch(batch_row(mode, requests=len(shares)))
    return str(folder / name)


def test_compare_shows_each_mode_of_the_battery_and_each_scenario_in_it(tmp_path: Path) -> None:
    up, down = [0.0] * 8 + [1.0] * 7, [1.0] * 15
    first = stored_battery(tmp_path, "a", {"think-high": up, "think-max": down})
    second = stored_battery(tmp_path, "b", {"think-high": down, "think-max": up})
    out = ds4bench(tmp_path, "compare", first, second)
    assert out.returncode == 0, out.stdout + out.stderr
    lines = [line.replace("│", " ").split() for line in out.stdout.splitlines()]
    assert ["points", "think-high", "15", "0.467", "1.000", "+0.533"] in [line[:6] for line in lines]
    assert ["points", "think-max", "15", "1.000", "0.467", "-0.533"] in [line[:6] for line in lines]
    assert ["scenario", "think-high", "think-max"] in lines
    assert ["TC-01", *"0 / 2".split(), *"2 / 0".split()] in lines
    assert ["TC-15", *"2 / 2".split(), *"2 / 2".split()] in lines
    assert not any(line[:1] == ["tc-01"] for line in lines)  # the scenario's row has it
    document = json.loads(ds4bench(tmp_path, "compare", first, second, "--json").stdout)
    points = {item["cell"]: item for item in document["scores"] if item["name"] == "points"}
    assert points["think-max"]["lost"] == points["think-high"]["won"] == [f"TC-{n:02}" for n in range(1, 9)]
    assert points["think-max"]["pairs"]["TC-01"] == [1.0, 0.0]


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
