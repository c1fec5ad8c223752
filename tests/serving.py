"""Serves on loopback: a process of its own that writes its port to a file, or a small application in a thread."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

EMBEDDED = ("-m", "ds4bench.embedded")
THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")  # `make test` gives one to each of its workers
SMALL = ("--num-blocks", "16", "--threads", THREADS)
"""Few blocks, so that a leak of blocks shows."""


@contextlib.contextmanager
def launched(
    folder: Path,
    *arguments: str,
    command: Sequence[str] = EMBEDDED,
    env: Mapping[str, str] | None = None,
    wait_s: float = 90,
) -> Iterator[str]:
    """Base URL of a serve that this interpreter runs, from the file with its port until SIGTERM; ``folder`` gets its log."""
    port_file, log_path = folder / "port", folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", "0", "--port-file", str(port_file), "--die-with-parent", *arguments],
            stdout=log, stderr=log, env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + wait_s
        while not port_file.exists():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "the serve did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Base URL of an application in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
