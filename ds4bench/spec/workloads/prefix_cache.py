"""``workload: prefix_cache``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from pydantic import Field

from ds4bench.core import Cell
from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec

Arrangement = Literal["solo", "pair", "shared", "again"]
"""One session; two at the same time with nothing in common; two, one behind the other, that begin with the same prompt;
prompts one by one, each cold, then out of the cache, then cold again, to compare the logprobs of the replies."""
SESSIONS = {"solo": 1, "pair": 2, "shared": 1, "again": 1}
"""Scripts that start together."""


class PrefixCacheMatrix(MatrixSpec):
    """The cells: every shape (words of filler before the first question) in every arrangement of sessions."""

    ID: ClassVar[str] = "{arrangement}-w{words}"

    words: PositiveInts
    arrangement: Annotated[list[Arrangement], Field(min_length=1)]

    def cells(self) -> list[Cell]:
        """See ``MatrixSpec``; the concurrency follows from the arrangement."""
        return [
            msgspec.structs.replace(cell, concurrency=SESSIONS[str(cell.params["arrangement"])])
            for cell in super().cells()
        ]


class PrefixCacheOptions(OptionsSpec):
    """``block_size`` in tokens, None: as the serve says (/metrics, /version, /server_info), else 256.

    ``unused_blocks``: blocks at the end of a match that the serve is known to compute again (vLLM with MTP: 1).
    ``again_prompts`` a repeat are sent in ``again``; a reply out of the cache is the same as the cold one when their logprobs
    differ by ``same_within_nats`` at most, or by three times what the two cold ones differ by.
    """

    turns: Annotated[int, Field(ge=2, le=4)] = 3
    block_size: PositiveInt | None = None
    unused_blocks: Annotated[int, Field(ge=0)] = 0
    again_prompts: PositiveInt = 4
    same_within_nats: Annotated[float, Field(gt=0)] = 0.05


SPEC = WorkloadSpec(
    name="prefix_cache",
    implementation="PrefixCache",
    version=2,
    matrix=PrefixCacheMatrix,
    options=PrefixCacheOptions,
    checks=(
        *ALWAYS,
        *("hits_reported", "hit_sources_agree", "no_accidental_hits", "delivered_concurrency", "comparable"),
    ),
    columns=("n", "ttft", "hit_rate", "ideal", "of_ideal", "failed", "scores"),
)
