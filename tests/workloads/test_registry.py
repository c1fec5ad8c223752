"""Every declared workload is there."""

from __future__ import annotations

from importlib import import_module

import pytest

from ds4bench.spec.workloads import WORKLOADS


@pytest.mark.parametrize("declared", WORKLOADS.values(), ids=lambda declared: declared.name)
def test_the_class_that_a_declaration_names_is_a_workload(declared: object) -> None:
    module = import_module(f"ds4bench.workloads.{declared.name}")  # type: ignore[attr-defined]
    workload = getattr(module, declared.implementation)  # type: ignore[attr-defined]
    assert all(callable(getattr(workload, name)) for name in ("prepare", "batch", "read_answer"))
    assert callable(getattr(module, "read_data", None)) == declared.reads_data  # type: ignore[attr-defined]
