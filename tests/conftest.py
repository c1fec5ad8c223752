"""Shared settings, and a real serve of the embedded engine in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "2")
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a serve with few blocks, so that a leak of blocks shows."""
    folder = tmp_path_factory.mktemp("serve")
    port_file = folder / "port"
    command = [sys.executable, "-m", "ds4bench.embedded", "--port", "0", "--port-file", str(port_file)]
    command += ["--num-blocks", "16", "--threads", "2", "--die-with-parent"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not port_file.exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "the serve did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port_file.read_text().strip()}"
    process.terminate()
    process.wait(20)
