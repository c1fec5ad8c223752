"""``workload: stream_parity``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ds4bench.spec.base import MatrixSpec, OptionsSpec
from ds4bench.spec.workloads.base import ALWAYS, WorkloadSpec


class StreamParityMatrix(MatrixSpec):
    """One cell a mode; every prompt is asked in each."""

    ID: ClassVar[str] = "{mode}"

    mode: Annotated[list[Literal["non-thinking", "thinking"]], Field(min_length=1)]


class StreamParityOptions(OptionsSpec):
    """``prompts``: the ids of those to ask, None for all.

    ``tries``: how often a prompt whose two replies differ is asked, streamed and whole, before it counts. A serve whose
    arithmetic differs from one request to the next writes another text now and then: only a difference that stays, between
    replies that are else always the same, is one of parsing.
    """

    prompts: Annotated[list[str], Field(min_length=1)] | None = None
    tries: Annotated[int, Field(ge=2, le=10)] = 3


SPEC = WorkloadSpec(
    name="stream_parity",
    implementation="StreamParity",
    version=1,
    matrix=StreamParityMatrix,
    options=StreamParityOptions,
    checks=(*ALWAYS, "mode_effective", "tools_called"),
    columns=("n", "scores", "failed"),
    reads_data=True,
    independent=True,
)
