"""The JSON Schema says what the loader accepts."""

from __future__ import annotations

from ds4bench.spec.gate import GateSpec
from ds4bench.spec.schema import allowed, gate_json_schema


def test_schema_covers_every_key_and_the_profiles() -> None:
    schema = gate_json_schema()
    assert set(schema["properties"]) == {*GateSpec.model_fields, "profiles"}
    assert schema["additionalProperties"] is False
    assert "request" in schema["required"]


def test_overlays_may_leave_keys_out_but_not_invent_any() -> None:
    definitions = gate_json_schema()["$defs"]
    for name in ("PartialGate", "PartialRequestSpec", "PartialRatioRule"):
        assert "required" not in definitions[name]
        assert definitions[name]["additionalProperties"] is False
    assert "required" in definitions["RequestSpec"]


def test_every_reference_of_the_schema_resolves() -> None:
    schema = gate_json_schema()
    seen = []

    def visit(part: object) -> None:
        if isinstance(part, dict):
            for value in part.values():
                visit(value)
        elif isinstance(part, list):
            for value in part:
                visit(value)
        elif isinstance(part, str) and part.startswith("#/$defs/"):
            seen.append(part.removeprefix("#/$defs/"))

    visit(schema)
    assert seen
    assert set(seen) <= set(schema["$defs"])


def test_schema_is_told_in_plain_words() -> None:
    assert allowed({"type": "number", "minimum": 0, "maximum": 1}) == "a number in 0..1"
    assert allowed({"type": "integer", "minimum": 1}) == "a whole number of at least 1"
    assert allowed({"enum": ["a", "b", "c"]}) == "'a', 'b' or 'c'"
    assert allowed({"anyOf": [{"type": "boolean"}, {"type": "null"}]}) == "true or false or null"
