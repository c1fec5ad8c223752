"""Run folders: nothing that finished is lost, whatever happens to the process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ds4bench.core import Answer, BatchRow, GateVerdict, RequestRow, RunManifest, ScriptRow
from ds4bench.errors import StoreError
from ds4bench.store import runs
from tests.records import GPU

Make = Callable[..., object]

APPENDER = """
import sys
from ds4bench.core import RequestResult, RequestRow
from ds4bench.store.runs import RunWriter
writer = RunWriter.reopen(sys.argv[1])
for index in range(10**6):
    result = RequestResult(ok=True, content="x" * 5000)
    writer.append_request(RequestRow(cell="c", repeat=0, attempt=0, index=index, phase="measure", result=result))
    print(index, flush=True)
"""


def test_what_is_written_is_read_back(
    state: Path,
    manifest: Callable[..., RunManifest],
    request_row: Callable[..., RequestRow],
    batch_row: Callable[..., BatchRow],
    verdict: Callable[..., GateVerdict],
) -> None:
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_request(request_row())
        writer.append_batch(batch_row())
        writer.record_death("it died")
    runs.write_verdict(manifest().run_id, verdict())
    run = runs.load_run(manifest().run_id)
    assert run.manifest == manifest()
    assert (run.requests, run.batches) == ([request_row()], [batch_row()])
    assert (run.died, run.verdict) == ("it died", verdict())


def test_a_batch_keeps_its_gpus_and_one_of_before_they_were_looked_at_has_none(
    state: Path, manifest: Callable[..., RunManifest], batch_row: Callable[..., BatchRow]
) -> None:
    shared = batch_row(gpus_after=[msgspec.structs.replace(GPU, foreign={4242: "python3"})])
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_batch(shared)
    old = {name: value for name, value in msgspec.to_builtins(shared).items() if not name.startswith("gpus_")}
    path = runs.run_folder(manifest().run_id) / runs.BATCHES
    path.write_bytes(path.read_bytes() + msgspec.json.encode(old) + b"\n")
    kept, without = runs.load_run(manifest().run_id).batches
    assert kept == shared
    assert (without.gpus_before, without.gpus_after) == ([], [])


def test_a_process_killed_while_it_appends_loses_no_line_that_it_had_reported(
    state: Path, manifest: Callable[..., RunManifest]
) -> None:
    runs.RunWriter.create(manifest()).close()
    process = subprocess.Popen([sys.executable, "-c", APPENDER, manifest().run_id], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = -1
    while reported < 40:
        reported = int(process.stdout.readline())
    process.kill()
    reported = max([reported, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    rows = runs.load_run(manifest().run_id).requests
    assert [row.index for row in rows] == list(range(len(rows)))
    assert len(rows) >= reported + 1


def test_a_torn_last_line_is_dropped_and_cut_off_when_the_run_goes_on(
    state: Path, manifest: Callable[..., RunManifest], request_row: Callable[..., RequestRow]
) -> None:
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_request(request_row())
    path = runs.run_folder(manifest().run_id) / runs.REQUESTS
    path.write_bytes(path.read_bytes() + b'{"cell": "p600-c1", "rep')
    assert len(runs.load_run(manifest().run_id).requests) == 1
    with runs.RunWriter.reopen(manifest().run_id) as writer:
        writer.append_request(request_row(repeat=1))
    assert [row.repeat for row in runs.load_run(manifest().run_id).requests] == [0, 1]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(
    state: Path, manifest: Callable[..., RunManifest], request_row: Callable[..., RequestRow]
) -> None:
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_request(request_row())
    path = runs.run_folder(manifest().run_id) / runs.REQUESTS
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(StoreError, match=r"requests.jsonl:1: damaged"):
        runs.load_run(manifest().run_id)


def test_two_processes_cannot_write_one_run(state: Path, manifest: Callable[..., RunManifest]) -> None:
    with runs.RunWriter.create(manifest()), pytest.raises(StoreError, match="another process writes"):
        runs.RunWriter.reopen(manifest().run_id)
    runs.RunWriter.reopen(manifest().run_id).close()


def test_a_run_is_never_created_over_another(state: Path, manifest: Callable[..., RunManifest]) -> None:
    runs.RunWriter.create(manifest()).close()
    with pytest.raises(StoreError, match="--resume"):
        runs.RunWriter.create(manifest())


def test_reopening_keeps_the_death_as_history_and_forgets_the_verdict(
    state: Path, manifest: Callable[..., RunManifest], verdict: Callable[..., GateVerdict]
) -> None:
    with runs.RunWriter.create(manifest()) as writer:
        writer.record_death("gone")
    runs.write_verdict(manifest().run_id, verdict())
    runs.RunWriter.reopen(manifest().run_id).close()
    run = runs.load_run(manifest().run_id)
    assert (run.died, run.deaths_before, run.verdict) == (None, ["gone"], None)
    with runs.RunWriter.reopen(manifest().run_id) as again:
        again.record_death("gone\nagain")
    runs.RunWriter.reopen(manifest().run_id).close()
    assert runs.load_run(manifest().run_id).deaths_before == ["gone", "gone again"]


def test_runs_are_listed_newest_first_and_damaged_ones_are_not_hidden(
    state: Path, manifest: Callable[..., RunManifest]
) -> None:
    for run_id in ("20261101-000000-a", "20261102-000000-b"):
        runs.RunWriter.create(manifest(run_id)).close()
    (state / "runs" / "20261103-000000-c").mkdir()
    listed = runs.list_runs()
    assert [item.run_id[:8] for item in listed] == ["20261103", "20261102", "20261101"]
    assert "no run in" in (listed[0].damaged or "")
    assert listed[1].verdict == "unfinished"


def test_run_ids_sort_by_time() -> None:
    first = runs.new_run_id("g", "p")
    time.sleep(1.1)
    assert first < runs.new_run_id("g", "p")


def test_a_secret_of_the_environment_is_scrubbed_from_every_file(
    state: Path,
    manifest: Callable[..., RunManifest],
    request_row: Callable[..., RequestRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-0123456789")
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_request(request_row(expect={"echo": "Bearer sk-0123456789"}))
        writer.record_death("HTTP 401 for sk-0123456789")
    files = [path for path in runs.run_folder(manifest().run_id).iterdir() if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if b"sk-0123456789" in path.read_bytes()]
    assert runs.load_run(manifest().run_id).requests[0].expect == {"echo": "Bearer ***"}


def test_scripts_and_an_early_stop_are_read_back_and_survive_a_reopening(
    state: Path, manifest: Callable[..., RunManifest]
) -> None:
    answer = Answer(scores={"points": 1.0}, detail={"trace": ["call", "reply"]})
    row = ScriptRow(cell="a", repeat=0, attempt=0, phase="measure", script=2, key="TC-08", requests=3, answer=answer)
    with runs.RunWriter.create(manifest()) as writer:
        writer.append_script(row)
        writer.record_stop("decided after 20 items")
    runs.RunWriter.reopen(manifest().run_id).close()
    run = runs.load_run(manifest().run_id)
    assert (run.scripts, run.stopped) == ([row], "decided after 20 items")
