"""What an engine's log says: new lines while it starts, the last ones after a death, and causes that have a known remedy.

An engine may log its own key: what is read here has none, and once the engine has ended neither has the log.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ds4bench import env

_TAIL_BYTES = 256 * 1024
"""An engine's log may be long; its end is read."""

_CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"out of memory|OutOfMemoryError|No available memory for the cache blocks", re.IGNORECASE),
        "out of GPU memory: {memory}free the GPU",
    ),
    (
        re.compile(
            r"is not a local folder and is not a valid model identifier|Repository Not Found|RepositoryNotFoundError"
        ),
        "unknown model: give a local folder with config.json, or an id that the engine can download",
    ),
    (re.compile(r"address already in use", re.IGNORECASE), "the port is in use: give another one with --port"),
    (
        re.compile(r"unrecognized arguments?: (?P<what>[^\n]+)"),
        "this version of the engine does not know a flag: {what}",
    ),
    (re.compile(r"No module named '?(?P<what>[\w.]+)"), "the engine's environment lacks a module: {what}"),
    (
        re.compile(r"Model architectures? (?P<what>\[[^\]]*\]) (?:are|is) not supported|not supported for now"),
        "this version of the engine does not know the model's architecture",
    ),
)


_ERROR = re.compile(r"(?:^|[\]\s])((?:\w+\.)*[A-Z]\w*(?:Error|Exception): [^\n]+)", re.MULTILINE)
"""The end of a traceback, behind whatever a logger puts before it."""


def last_lines(path: Path, count: int, start: int = 0) -> list[str]:
    """The last ``count`` lines that are not empty, from byte ``start`` on."""
    lines = [line.strip() for line in _tail(path, start).splitlines()]
    return [line for line in lines if line][-count:]


def likely_cause(path: Path, start: int = 0, memory_advice: str | None = None) -> str | None:
    """A known cause that the log names, with what to do about it; else its first exception; None if there is none.
    ``memory_advice``: what helps this engine when GPU memory runs out.

    The first one: what comes after it are the processes that lost the one that failed.
    """
    text = _tail(path, start)
    for pattern, advice in _CAUSES:
        found = pattern.search(text)
        if found is not None:
            return advice.format(**found.groupdict(), memory=f"{memory_advice}, or " if memory_advice else "")
    error = _ERROR.search(text)
    return error.group(1).strip() if error else None


def hide_secrets(path: Path) -> None:
    """Overwrite keys in a log that nobody writes to any more; no byte moves."""
    with contextlib.suppress(OSError), path.open("r+b") as log:
        data = log.read()
        for secret in (value.encode() for value in env.secrets()):
            at = data.find(secret)
            while at >= 0:
                log.seek(at)
                log.write(b"*" * len(secret))
                at = data.find(secret, at + len(secret))


class LogFollower:
    """Reads what has been added to a log since the last look."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._offset = start
        self._partial = b""

    def new_lines(self) -> list[str]:
        """Complete new lines; a line that is still being written waits for its end."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                data = log.read()
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [env.without_secrets(line.decode(errors="replace").rstrip()) for line in lines]


def _tail(path: Path, start: int) -> str:
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(0, 2)
        log.seek(max(start, log.tell() - _TAIL_BYTES))
        return env.without_secrets(log.read().decode(errors="replace"))
    return ""
