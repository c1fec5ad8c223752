"""Shared settings, and a real serve of the embedded engine in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.serving import launched

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")  # `make test` gives one to each of its workers
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a serve with few blocks, so that a leak of blocks shows."""
    with launched(tmp_path_factory.mktemp("serve"), "--num-blocks", "16", "--threads", THREADS) as url:
        yield url
