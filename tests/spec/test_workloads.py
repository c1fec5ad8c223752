"""Axes, items, options and data of gates other than the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ds4bench.core import DataIdentity
from ds4bench.errors import SpecError
from ds4bench.spec.base import ItemBatches, MatrixSpec
from ds4bench.spec.gate import gate_model, parse_gate
from ds4bench.spec.load import effective, effective_from_dict, list_gates, load_gate
from ds4bench.spec.schema import gate_json_schema
from ds4bench.spec.workloads import WORKLOADS
from ds4bench.verdicts.checks import CHECKS

GATES = Path(__file__).parents[2] / "gates"


class Shapes(MatrixSpec):
    ID: ClassVar[str] = "{mode}-w{words}"

    mode: list[str]
    words: list[int]


def test_any_axes_span_the_cells_the_last_one_fastest() -> None:
    cells = Shapes(mode=["solo", "pair"], words=[100, 800]).cells()
    assert [cell.id for cell in cells] == ["solo-w100", "solo-w800", "pair-w100", "pair-w800"]
    assert (cells[1].params, cells[1].concurrency) == ({"mode": "solo", "words": 800}, 1)


def test_items_are_cut_into_batches_in_order() -> None:
    cells = ItemBatches(limit=120, batch=50, concurrency=32).cells()
    assert [cell.id for cell in cells] == ["items0-49", "items50-99", "items100-119"]
    assert [cell.concurrency for cell in cells] == [32, 32, 20]
    assert cells[2].params == {"first": 100, "last": 119}


@pytest.mark.parametrize("info", list_gates(GATES), ids=lambda info: info.name)
def test_every_shipped_gate_has_a_full_and_a_smoke_profile_and_known_checks(info: Any) -> None:
    assert {"full", "smoke"} <= set(info.profiles)
    for profile in info.profiles:
        gate = load_gate(info.name, profile=profile, directory=GATES)
        assert len({cell.id for cell in gate.spec.matrix.cells()}) == len(gate.spec.matrix.cells()) > 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_declared_check_exists(name: str) -> None:
    assert set(WORKLOADS[name].checks) <= set(CHECKS)
    assert WORKLOADS[name].name == name


def test_options_and_data_change_the_measurement() -> None:
    smoke = load_gate("mt-bench", profile="smoke", directory=GATES)
    changed = load_gate("mt-bench", profile="smoke", overrides=["options.least_requests=9"], directory=GATES)
    assert changed.measurement_hash != smoke.measurement_hash
    one = effective(smoke.spec, "smoke", DataIdentity(name="a", items=1, sha256="aa", source="x"))
    moved = effective(smoke.spec, "smoke", DataIdentity(name="a", items=1, sha256="aa", source="y"))
    other = effective(smoke.spec, "smoke", DataIdentity(name="a", items=1, sha256="bb", source="x"))
    assert one.measurement_hash == moved.measurement_hash
    assert len({smoke.measurement_hash, one.measurement_hash, other.measurement_hash}) == 3
    assert effective_from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_gate_of_the_first_workload_keeps_the_hash_of_its_stored_baseline() -> None:
    stored = GATES.parent / "results" / "baselines" / "embedded-epyc-2c" / "long-context-smoke.json"
    smoke = load_gate("long-context", profile="smoke", directory=GATES)
    assert json.loads(stored.read_text())["measurement_hash"] == smoke.measurement_hash


def test_options_of_another_workload_are_a_mistake_with_its_line(tmp_path: Path) -> None:
    text = (GATES / "mt-bench.yaml").read_text().replace("requests_per_slot: 10", "requests: 10")
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "  requests: 10" in row)
    (tmp_path / "mt-bench.yaml").write_text(text)
    with pytest.raises(SpecError, match=rf":{line}: options: unknown key 'requests'; allowed: data, requests_per_slot"):
        load_gate("mt-bench", directory=tmp_path)


def test_a_limit_needs_exactly_one_bound() -> None:
    rule = "rules.failures={name: failures, kind: limit, measure: ttft_p99_s}"
    with pytest.raises(SpecError, match="needs one of at_most and at_least"):
        load_gate("random", overrides=[rule], directory=GATES)


def test_the_schema_ties_matrix_and_options_to_the_workload() -> None:
    schema = gate_json_schema()
    assert schema["properties"]["workload"]["enum"] == list(WORKLOADS)
    branches = {part["if"]["properties"]["workload"]["const"]: part["then"] for part in schema["allOf"]}
    assert branches["mt_bench"]["properties"]["options"]["$ref"].endswith("MtBenchOptions")
    assert set(branches) == set(WORKLOADS)


def test_a_gate_is_parsed_into_its_workloads_own_models() -> None:
    data = load_gate("mt-bench", directory=GATES).spec.model_dump(mode="json")
    assert type(parse_gate(data)) is gate_model("mt_bench")
    with pytest.raises(KeyError):
        parse_gate({**data, "workload": "nothing"})
