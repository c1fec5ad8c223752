"""Shared settings, and a real serve of the embedded engine in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.serving import SMALL, launched

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a serve of the embedded engine with the trained weights."""
    with launched(tmp_path_factory.mktemp("serve"), *SMALL) as url:
        yield url
