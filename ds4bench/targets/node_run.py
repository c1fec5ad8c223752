"""A command on a machine of a cluster: run it there under a watcher, or run it to its end and read what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ds4bench.targets import process_group

_BOOT = "import sys; exec(sys.stdin.buffer.read(int(sys.argv.pop(1))))"
"""The watcher is not installed at the other end: its text comes first on standard input, which then stays open."""


@cache
def watcher_text() -> bytes:
    """The watcher's program: ``process_group``, which needs nothing but a python."""
    return Path(process_group.__file__).read_bytes()


def watcher(python: str, grace_s: float) -> list[str]:
    """The words that, before a command, run it under a watcher: it ends with the connection that it came by."""
    size = str(len(watcher_text()))
    return [python, "-I", "-S", "-c", _BOOT, size, "watch", secrets.token_hex(8), f"{grace_s:g}"]


@dataclass(frozen=True)
class Done:
    """A command that has ended. ``code`` is None when its time was over."""

    code: int | None
    out: str
    err: str

    def last_line(self) -> str:
        """What it said last, for an error message."""
        lines = [line.strip() for line in (self.err.strip() or self.out.strip()).splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


async def run_to_end(words: Sequence[str], timeout_s: float, *, text: bytes | None = None) -> Done:
    """Run words here (they lead to a node) and wait. With ``text`` on standard input, which stays open until the end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL if text is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Done(127, "", f"{words[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(timeout_s):
            if process.stdin is not None and text is not None:
                process.stdin.write(text)
            out, err = await asyncio.gather(_all(process.stdout), _all(process.stderr))
            code = await process.wait()
        return Done(code, out, err)
    except TimeoutError:
        return Done(None, "", f"no answer within {timeout_s:g} s")
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            await _end(process)


async def _all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                await process.wait()
                return
