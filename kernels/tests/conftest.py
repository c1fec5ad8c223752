"""Triton decides at import whether it interprets: without a GPU the kernel tests do."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs Triton, or its interpreter, where that is not there."""
    if item.get_closest_marker("triton") and importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton")
    if item.get_closest_marker("interpreted") and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1: on a GPU the kernels are checked by ds4-kernels check")
