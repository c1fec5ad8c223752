"""Shared settings of the test run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
