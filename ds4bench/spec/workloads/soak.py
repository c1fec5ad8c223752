"""``workload: soak``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec


class SoakMatrix(MatrixSpec):
    """The cells: how many conversations go on together."""

    ID: ClassVar[str] = "soak-c{concurrency}"

    concurrency: PositiveInts


class SoakOptions(OptionsSpec):
    """A conversation has ``rounds`` turns, each with so many words more than its history.

    ``duration_s``: every client begins one conversation after the other until so many seconds have passed; None: one each.
    """

    rounds: Annotated[int, Field(ge=2)] = 12
    words_per_round: PositiveInt = 300
    duration_s: Annotated[float, Field(gt=0)] | None = None


SPEC = WorkloadSpec(
    name="soak",
    implementation="Soak",
    version=1,
    matrix=SoakMatrix,
    options=SoakOptions,
    checks=(*ALWAYS, "conversations_grow", "delivered_concurrency", *TIMED, "comparable"),
    columns=("n", "ttft", "ttft_max", "itl_p99", "decode", "output", "hit_rate", "failed"),
)
