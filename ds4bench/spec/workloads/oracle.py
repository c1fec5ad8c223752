"""``workload: oracle``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec


class OracleMatrix(MatrixSpec):
    """The cells: words of filler in a prompt; ``concurrency`` prompts are in flight together."""

    ID: ClassVar[str] = "w{words}-c{concurrency}"

    words: PositiveInts
    concurrency: PositiveInts


class OracleOptions(OptionsSpec):
    """Prompts a cell, and how many of the likeliest tokens of every place are asked for and compared.

    ``again``: every prompt is sent twice, so that what is computed behind a prefix-cache hit is compared too.
    """

    prompts: PositiveInt = 4
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = 8
    again: bool = True


SPEC = WorkloadSpec(
    name="oracle",
    version=1,
    matrix=OracleMatrix,
    options=OracleOptions,
    checks=(*ALWAYS, "logprobs_complete", "comparable"),
    columns=("n", "tokens", "ttft", "hit_rate", "failed"),
    independent=True,
    keeps_detail=True,
    machine_matters=False,
)
