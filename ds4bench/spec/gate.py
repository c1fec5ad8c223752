"""What a gate file may say: frozen pydantic models, nothing optional in silence, nothing unknown accepted.

Strict types: ``max_tokens: "128"`` and ``repeats: true`` are mistakes, not conversions.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ds4bench.core import Cell

WORKLOAD_VERSIONS = {"long_context": 1}
"""Part of the measurement: raised by hand when a workload sends something else for the same gate file."""

_SET_BY_THE_GATE = {
    *("model", "messages", "prompt", "stream", "stream_options"),
    *("max_tokens", "temperature", "ignore_eos", "cache_salt"),
}

Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RequestSpec(_Model):
    """What every request asks for. ``deadline_s`` bounds the whole request, not one socket read."""

    endpoint: Literal["chat", "completions"] = "chat"
    max_tokens: PositiveInt
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    salt: bool = True
    thinking: bool | None = None
    deadline_s: Annotated[float, Field(gt=0)]
    ignore_eos: bool = False
    extra_body: dict[str, Any] = {}

    @field_validator("extra_body")
    @classmethod
    def _is_json_and_ours_stay_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(_SET_BY_THE_GATE & value.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)} is set by the gate itself and cannot stand in extra_body")
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("nan and inf are no JSON numbers and cannot be sent") from None
        return value


class MatrixSpec(_Model):
    """The cells: every prompt length (tokens by the served tokenizer) at every concurrency."""

    prompt_tokens: Annotated[list[PositiveInt], Field(min_length=1)]
    concurrency: Annotated[list[PositiveInt], Field(min_length=1)]

    @field_validator("prompt_tokens", "concurrency")
    @classmethod
    def _no_value_twice(cls, value: list[int]) -> list[int]:
        twice = sorted({v for v in value if value.count(v) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(str, twice))} stands in the list twice; cells must be different")
        return value

    def cells(self) -> list[Cell]:
        """The cells in the order they are measured; ids look like ``p8192-c2``."""
        return [
            Cell(id=f"p{tokens}-c{c}", concurrency=c, params={"prompt_tokens": tokens, "concurrency": c})
            for tokens in self.prompt_tokens
            for c in self.concurrency
        ]


class WarmupSpec(_Model):
    """Discarded requests before a cell is measured: a number, or as many as the cell has at once."""

    requests_per_cell: Literal["concurrency"] | Annotated[int, Field(ge=0)] = 1


class RepeatSpec(_Model):
    """How often the whole matrix is measured. The repeat is the unit of evidence, not the request."""

    count: PositiveInt = 3


class ValiditySpec(_Model):
    """Thresholds of the validity checks (verdicts/validity.py). Shares are of 1."""

    cold: bool = True
    allow_unverified_cold: bool = False
    length_tolerance: Share = 0.01
    max_client_lag_share_ttft: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_client_lag_share_gap: Annotated[float, Field(gt=0, le=1)] = 0.20
    min_delivered_concurrency: Share = 0.95
    machine_drift: Annotated[float, Field(gt=0, le=1)] = 0.08
    max_foreign_cpu_share: Annotated[float, Field(gt=0, le=1)] = 0.08


class RatioRule(_Model):
    """Candidate / baseline of one request metric, with an interval, against a margin.

    ``margin`` is the relative worsening that is tolerated over all cells, ``per_cell_margin`` a wider hard
    limit for each cell alone. ``session_cv`` is how much the same build differs from one session (start of
    the serve, hour of the day) to the next: repeats inside one session cannot show it, so it is stated here.
    """

    kind: Literal["ratio"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    metric: Literal["ttft_s", "ttfa_s", "e2e_s", "tpot_ms", "tpot_decode_ms"]
    margin: Annotated[float, Field(gt=0, le=1)]
    per_cell_margin: Annotated[float, Field(gt=0, le=10)] | None = None
    direction: Literal["lower_is_better", "higher_is_better"] = "lower_is_better"
    session_cv: Annotated[float, Field(ge=0, le=0.5)]


class ZeroFailuresRule(_Model):
    """No request may fail."""

    kind: Literal["zero_failures"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")] = "zero_failures"


class RecallRule(_Model):
    """Mean share of the sentinel codes that the answers give back; judged apart from latency."""

    kind: Literal["recall"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")] = "recall"
    threshold: Share


Rule = Annotated[RatioRule | ZeroFailuresRule | RecallRule, Field(discriminator="kind")]


class GateSpec(_Model):
    """One gate, one profile applied: what is sent, what makes it valid, what decides it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Annotated[str, Field(min_length=1)]
    purpose: Annotated[str, Field(min_length=1, max_length=160)]
    workload: Literal["long_context"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    request: RequestSpec
    matrix: MatrixSpec
    warmup: WarmupSpec = WarmupSpec()
    repeats: RepeatSpec = RepeatSpec()
    validity: ValiditySpec = ValiditySpec()
    rules: Annotated[list[Rule], Field(min_length=1)]

    @field_validator("rules")
    @classmethod
    def _rule_names_differ(cls, value: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in value]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two rules are named {', '.join(twice)}; every rule needs its own name")
        return value

    @field_validator("purpose")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if "\n" in value.strip():
            raise ValueError("the purpose must be one line")
        return value.strip()
