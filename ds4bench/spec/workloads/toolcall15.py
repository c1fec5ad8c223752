"""``workload: toolcall15``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from pydantic import Field

from ds4bench.core import Cell
from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec

ModeName = Literal["non-thinking", "think-high", "think-max"]
VariantName = Literal["v1-original", "v1-jasl"]


class ToolCall15Matrix(MatrixSpec):
    """One cell a thinking mode; the 15 scenarios are its items and the gate's repeats its rounds.

    ``concurrency`` is how many conversations of a cell run side by side.
    """

    ID: ClassVar[str] = "{mode}"

    mode: Annotated[list[ModeName], Field(min_length=1)]
    concurrency: PositiveInt = 1

    def cells(self) -> list[Cell]:
        """See ``MatrixSpec``."""
        return [msgspec.structs.replace(cell, concurrency=self.concurrency) for cell in super().cells()]


class ToolCall15Options(OptionsSpec):
    """How conversations run (``protocol``), how they are scored (``rules``), and in which language the user asks.

    ``scenarios``: the ids of those to hold, None for all fifteen; points of fewer are not the benchmark's.

    Temperature and ``max_tokens`` are those of the gate's ``request``; the protocol gives the other sampling fields.
    """

    protocol: VariantName = "v1-jasl"
    rules: VariantName = "v1-jasl"
    language: Literal["en", "zh"] = "en"
    scenarios: Annotated[list[str], Field(min_length=1)] | None = None


SPEC = WorkloadSpec(
    name="toolcall15",
    implementation="ToolCall15",
    version=1,
    matrix=ToolCall15Matrix,
    options=ToolCall15Options,
    checks=(
        *ALWAYS,
        *("mode_effective", "reasoning_parsed", "effort_effective", "conversations_grow", "replies_not_cut"),
        "comparable",
    ),
    columns=("n", "v1_jasl", "v1_original", "stars", "categories", "not_full"),
    reads_data=True,
    independent=True,
)
