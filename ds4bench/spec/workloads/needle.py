"""``workload: needle``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec


class NeedleMatrix(MatrixSpec):
    """The cells: every prompt length (tokens by the served tokenizer); ``concurrency`` prompts are in flight together."""

    ID: ClassVar[str] = "p{prompt_tokens}-c{concurrency}"

    prompt_tokens: PositiveInts
    concurrency: PositiveInts


class NeedleOptions(OptionsSpec):
    """At how many places, evenly spread from the beginning to the end, the code stands; one prompt each."""

    positions: Annotated[int, Field(ge=2, le=101)] = 15


SPEC = WorkloadSpec(
    name="needle",
    implementation="Needle",
    version=1,
    matrix=NeedleMatrix,
    options=NeedleOptions,
    checks=(*ALWAYS, "cold_verified", "no_truncation", "length_within", "codes_not_cut", "comparable"),
    columns=("n", "ttft", "prefill", "failed", "scores"),
)
