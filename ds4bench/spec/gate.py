"""What a gate file may say: frozen pydantic models, nothing optional in silence, nothing unknown accepted.

``workload`` chooses the models of ``matrix`` and ``options`` (``spec/workloads/``); the rest is the same for all gates.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, create_model, field_validator

from ds4bench.core import Cell, RunManifest
from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, Share, SpecModel
from ds4bench.spec.rules import Rule
from ds4bench.spec.workloads import WORKLOADS
from ds4bench.spec.workloads.base import WorkloadSpec

_SET_BY_THE_GATE = {
    *("model", "messages", "prompt", "stream", "stream_options"),
    *("max_tokens", "temperature", "ignore_eos", "cache_salt"),
}


class RequestSpec(SpecModel):
    """What every request asks for. ``deadline_s`` bounds the whole request, not one socket read."""

    endpoint: Literal["chat", "completions"] = "chat"
    max_tokens: PositiveInt
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    salt: bool = True
    thinking: bool | None = None
    deadline_s: Annotated[float, Field(gt=0)]
    ignore_eos: bool = False
    extra_body: dict[str, Any] = Field(default_factory=dict)

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


class WarmupSpec(SpecModel):
    """Discarded requests before a cell is measured: a number, or as many as the cell has at once."""

    requests_per_cell: Literal["concurrency"] | Annotated[int, Field(ge=0)] = 1


class RepeatSpec(SpecModel):
    """How often the whole matrix is measured. The repeat is the unit of evidence, not the request.

    ``extend_to``: one extension, declared here before the run, when ``count`` repeats leave a comparison INCONCLUSIVE. Both
    looks are then made at half the error rate each. Without effect where ``count`` (``--repeats``) is larger.
    """

    count: PositiveInt = 5
    extend_to: PositiveInt | None = None

    @property
    def looks(self) -> int:
        """How often the comparison may be looked at."""
        return 2 if self.extend_to is not None and self.extend_to >= self.count else 1


class ValiditySpec(SpecModel):
    """Thresholds of the validity checks (verdicts/checks). Shares are of 1.

    ``cold``: prompts must not come from the prefix cache. ``speculates``: the serve must decode speculatively.
    """

    cold: bool = True
    speculates: bool = False
    allow_unverified_cold: bool = False
    length_tolerance: Share = 0.01
    max_client_lag_share_ttft: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_client_lag_share_gap: Annotated[float, Field(gt=0, le=1)] = 0.20
    min_delivered_concurrency: Share = 0.95
    max_cut_share: Share = 0.1
    machine_drift: Annotated[float, Field(gt=0, le=1)] = 0.08
    max_foreign_cpu_share: Annotated[float, Field(gt=0, le=1)] = 0.08

    @property
    def may_stay_unverified(self) -> frozenset[str]:
        """Names of the checks that this gate can do without: for its verdicts and for the baselines that these need."""
        return frozenset({"cold_verified"}) if self.allow_unverified_cold else frozenset()


class GateSpec(SpecModel):
    """One gate, one profile applied: what is sent, what makes it valid, what decides it.

    Made by ``parse_gate``: ``matrix`` and ``options`` are of the workload's own models.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Annotated[str, Field(min_length=1)]
    purpose: Annotated[str, Field(min_length=1, max_length=160)]
    workload: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    request: RequestSpec
    matrix: MatrixSpec
    options: OptionsSpec = OptionsSpec()
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

    @field_validator("rules")
    @classmethod
    def _stops_between_batches_of_items(cls, value: list[Rule], info: ValidationInfo) -> list[Rule]:
        """Elsewhere nobody knows how many items are to come, and every look would spend the error rate of the last one."""
        matrix = info.data.get("matrix")  # missing where it has a mistake of its own
        early = [rule.name for rule in value if getattr(rule, "early_stop", False)]
        if early and isinstance(matrix, MatrixSpec) and matrix.items() is None:
            raise ValueError(
                f"{early[0]}: early_stop works only where cells are batches of items (matrix.limit, matrix.batch); "
                "leave it out"
            )
        return value

    @field_validator("purpose")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if "\n" in value.strip():
            raise ValueError("the purpose must be one line")
        return value.strip()

    @property
    def declared(self) -> WorkloadSpec:
        """What the workload declares: version, checks, columns."""
        return WORKLOADS[self.workload]


@cache
def gate_model(workload: str) -> type[GateSpec]:
    """The model of gates with this workload. Raises KeyError for an unknown one."""
    declared = WORKLOADS[workload]
    needed = any(field.is_required() for field in declared.options.model_fields.values())
    name = "".join(part.capitalize() for part in workload.split("_"))
    options: Any = (declared.options, ... if needed else declared.options())
    matrix: Any = (declared.matrix, ...)
    kind: Any = (Literal[workload], ...)
    return create_model(
        f"{name}Gate", __base__=GateSpec, __doc__=GateSpec.__doc__, workload=kind, matrix=matrix, options=options
    )


def parse_gate(data: dict[str, Any]) -> GateSpec:
    """A gate from plain values. Raises KeyError for a workload that is unknown or missing, else ValidationError."""
    return gate_model(data["workload"]).model_validate(data)


def stored_cells(manifest: RunManifest) -> list[Cell]:
    """The cells of a stored run, from the measurement that it kept."""
    workload = manifest.measurement.get("workload", "long_context")
    return WORKLOADS[workload].matrix.model_validate(manifest.measurement["matrix"]).cells()
