"""``workload: mixed_arrival``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from pydantic import Field

from ds4bench.core import Cell
from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec

Arrival = Literal["prefill_behind_decode", "short_behind_prefill"]
"""What comes second: a long prompt while a short one decodes, or a short prompt while a long one is prefilled."""


class MixedArrivalMatrix(MatrixSpec):
    """The cells: the length of the long prompt (tokens by the served tokenizer) and what comes second."""

    ID: ClassVar[str] = "{arrival}-p{prompt_tokens}"

    prompt_tokens: PositiveInts
    arrival: Annotated[list[Arrival], Field(min_length=1)]

    def cells(self) -> list[Cell]:
        """See ``MatrixSpec``; two requests overlap in every cell."""
        return [msgspec.structs.replace(cell, concurrency=2) for cell in super().cells()]


class MixedArrivalOptions(OptionsSpec):
    """``decode_tokens`` is the reply of the request that decodes while the long prompt arrives.

    ``delay_s``: how long behind the other's first token the long prompt comes, and behind its start the short one.
    """

    short_tokens: PositiveInt = 512
    decode_tokens: PositiveInt = 512
    delay_s: Annotated[float, Field(ge=0)] = 0.5


SPEC = WorkloadSpec(
    name="mixed_arrival",
    implementation="MixedArrival",
    version=1,
    matrix=MixedArrivalMatrix,
    options=MixedArrivalOptions,
    checks=(
        *ALWAYS,
        *("cold_verified", "no_truncation", "length_within", "arrivals_overlap"),
        *TIMED,
        "comparable",
    ),
    columns=("n", "roles", "baseline", "ratio", "failed"),
)
