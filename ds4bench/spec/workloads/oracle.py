"""``workload: oracle``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec

OPENING_WORDS, OPENING_TOKENS = 8, 4
"""A cell of so few words: bare beginnings of sentences, and a reply of so many tokens. What wrong attention does to a handful
of keys is far above rounding there, and drowns in it behind hundreds."""


class OracleMatrix(MatrixSpec):
    """The cells: words of filler in a prompt; ``concurrency`` prompts are in flight together."""

    ID: ClassVar[str] = "w{words}-c{concurrency}"

    words: PositiveInts
    concurrency: PositiveInts


class OracleOptions(OptionsSpec):
    """``prompts`` a cell, ``openings`` in one of at most ``OPENING_WORDS`` words; how many likeliest tokens are compared.

    ``again``: every prompt is sent twice, so that what is computed behind a prefix-cache hit is compared too. ``tokens``: how
    replies name tokens, ``ids`` where the engine can. By their text, several special or broken tokens have one name (none);
    set ``text`` to compare two engines of which one has no ids.
    """

    prompts: PositiveInt = 4
    openings: PositiveInt = 24
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = 8
    again: bool = True
    tokens: Literal["ids", "text"] = "ids"


SPEC = WorkloadSpec(
    name="oracle",
    implementation="Oracle",
    version=3,
    matrix=OracleMatrix,
    options=OracleOptions,
    checks=(*ALWAYS, "logprobs_complete", "comparable"),
    columns=("n", "tokens", "ttft", "hit_rate", "failed"),
    independent=True,
    keeps_detail=True,
    machine_matters=False,
)
