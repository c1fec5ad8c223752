"""Workloads by the name that gate files use. A workload's module is imported when it runs, not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ds4bench.errors import SpecError
from ds4bench.spec.gate import GateSpec
from ds4bench.workloads.base import Workload

if TYPE_CHECKING:
    from ds4bench.workloads.dataset import DataSet


def make_workload(spec: GateSpec, run_id: str, data: DataSet | None = None) -> Workload:
    """The workload of a gate. ``run_id`` enters the salts, so that no two runs send the same prompt.

    Its class takes (spec, run_id), with ``reads_data`` (spec, run_id, data).
    """
    module = import_module(f"ds4bench.workloads.{spec.workload}")
    make = getattr(module, spec.declared.implementation)
    workload: Workload = make(spec, run_id, data) if spec.declared.reads_data else make(spec, run_id)
    return workload


def read_data(spec: GateSpec, source: str | None) -> DataSet | None:
    """The items of a workload that reads some: of ``--data SOURCE``, else its own; by ``read_data(spec, source)`` of its
    module. Raises WorkloadError for a bad file, SpecError for ``--data`` where nothing is read."""
    if spec.declared.reads_data:
        data: DataSet = import_module(f"ds4bench.workloads.{spec.workload}").read_data(spec, source)
        return data
    if source is not None:
        raise SpecError(f"--data {source}: gate {spec.name} reads no data; leave the option out")
    return None
