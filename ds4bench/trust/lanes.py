"""An experiment on all cores of a machine at once: lanes of a few cores each, every lane a process with its share.

A lane is pinned, so serve and client of one never run on the cores of another, and ``machine_quiet`` looks at its own cores
only. Threads of one physical core go to the same lane. Caches and memory bandwidth are still shared by all.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ds4bench import env
from ds4bench.errors import SpecError

_ENDING_S = 60.0
_SIBLINGS = "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"


@dataclass(frozen=True)
class Lane:
    """One process: which share, on which CPUs, with which folder for its state and its results."""

    number: int  # from 1
    of: int
    cpus: tuple[int, ...]
    folder: Path

    @property
    def results(self) -> Path:
        """Where its share of the results goes."""
        return self.folder / "results"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The experiment's command, for this share."""
        share = ["--shard", f"{self.number}/{self.of}", "--results", str(self.results)]
        return [sys.executable, "-m", "ds4bench.trust", *arguments, *share]


def make_lanes(folder: Path, *, cores: int, most: int | None) -> list[Lane]:
    """Lanes of ``cores`` of the CPUs that this process may use, at most ``most``. Raises SpecError for too few CPUs."""
    cpus = sorted(os.sched_getaffinity(0), key=lambda cpu: (_first_sibling(cpu), cpu))
    count = min(len(cpus) // cores, most or len(cpus))
    if count < 1:
        raise SpecError(f"--cores {cores}: only {len(cpus)} CPUs may be used here")
    chosen = [tuple(cpus[place * cores : (place + 1) * cores]) for place in range(count)]
    return [
        Lane(place + 1, count, mine, (folder / f"{place + 1}of{count}").resolve()) for place, mine in enumerate(chosen)
    ]


async def run_lanes(lanes: Sequence[Lane], arguments: Sequence[str]) -> list[int]:
    """Run them beside each other, their lines on stderr behind their number; returns their exit codes.

    Cancelled (Ctrl-C, SIGTERM) it ends every lane and waits for it.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    processes = [await _start(lane, arguments) for lane in lanes]
    try:
        return list(await asyncio.gather(*(_follow(*pair) for pair in zip(lanes, processes, strict=True))))
    finally:
        await asyncio.gather(*(_end(process) for process in processes))


async def _start(lane: Lane, arguments: Sequence[str]) -> asyncio.subprocess.Process:
    lane.folder.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(len(lane.cpus))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, lane.cpus)  # what is started inherits it
    try:
        return await asyncio.create_subprocess_exec(
            *lane.command(arguments), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env={**threads, **os.environ, env.STATE_DIR: str(lane.folder / "state")}, start_new_session=True,
        )  # fmt: skip
    finally:
        os.sched_setaffinity(0, before)


async def _follow(lane: Lane, process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    with (lane.folder / "stderr.log").open("ab") as log:
        async for line in process.stderr:
            log.write(line)
            log.flush()
            sys.stderr.write(f"[{lane.number}] {line.decode(errors='replace').rstrip()}\n")
    return await process.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _ENDING_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _first_sibling(cpu: int) -> int:
    """The lowest CPU of the same physical core; the CPU itself where the system does not tell."""
    try:
        return int(Path(_SIBLINGS.format(cpu=cpu)).read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
