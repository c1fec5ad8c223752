"""The JSON Schema of gate files, for editors, and its reading in plain words, for error messages."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from ds4bench.spec.gate import gate_model
from ds4bench.spec.workloads import WORKLOADS

Schema = dict[str, Any]

_BY_WORKLOAD = ("matrix", "options")
_NOUNS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}


@cache
def definitions() -> dict[str, Schema]:
    """The schemas of all models, of the gates of every workload too. Do not change the result."""
    models = [(gate_model(workload), "validation") for workload in WORKLOADS]
    _, schema = models_json_schema(models)  # type: ignore[arg-type]  # the literal type is lost in the list
    return dict(schema["$defs"])


def spec_schema(workload: str) -> Schema:
    """Schema of one gate with its profile applied. Do not change the result."""
    return definitions()[gate_model(workload).__name__]


def gate_json_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a gate file: the gate and its ``profiles``, which may leave keys out."""
    gates = {workload: spec_schema(workload) for workload in WORKLOADS}
    names = {gate_model(workload).__name__ for workload in WORKLOADS}
    shared = {name: body for name, body in definitions().items() if name not in names}
    schema = copy.deepcopy({**next(iter(gates.values())), "$defs": shared})
    schema["properties"]["workload"] = {"type": "string", "title": "Workload", "enum": list(gates)}
    for part in _BY_WORKLOAD:
        schema["properties"][part] = {"anyOf": _distinct([gate["properties"][part] for gate in gates.values()])}
    partial = {f"Partial{name}": _optional(body) for name, body in shared.items()}
    overlay = _optional({k: v for k, v in schema.items() if k != "$defs"})
    schema["allOf"] = [
        {
            "if": {"properties": {"workload": {"const": workload}}},
            "then": {"properties": {part: gate["properties"][part] for part in _BY_WORKLOAD}},
        }
        for workload, gate in gates.items()
    ]
    overlay["description"] = "What this profile changes; mappings are merged, rules by name, other lists replaced."
    schema["$defs"].update(partial, PartialGate=overlay)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "ds4bench gate"
    schema["properties"]["profiles"] = {
        "type": "object",
        "title": "Profiles",
        "description": "Overlays by name; the file without an overlay is the profile `full`.",
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/PartialGate"}, {"type": "null"}]},
    }
    return schema


def _distinct(schemas: list[Schema]) -> list[Schema]:
    """Each reference once, without defaults."""
    references = [{"$ref": schema["$ref"]} for schema in schemas]
    return [item for place, item in enumerate(references) if item not in references[:place]]


def _optional(schema: Any) -> Any:
    """A copy without ``required`` and defaults, with references turned to the partial definitions."""
    if isinstance(schema, list):
        return [_optional(part) for part in schema]
    if not isinstance(schema, dict):
        return schema.replace("#/$defs/", "#/$defs/Partial") if isinstance(schema, str) else schema
    changed = {k: _optional(v) for k, v in schema.items() if k not in ("required", "default")}
    return changed


def resolve(schema: Schema) -> Schema:
    """Follows ``$ref`` into ``definitions()``."""
    while "$ref" in schema:
        schema = definitions()[schema["$ref"].rpartition("/")[2]]
    return schema


def noun(schema: Schema) -> str:
    """What kind of thing is wanted, without its limits: ``a number``, ``true or false``."""
    schema = resolve(schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(noun(option) for option in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return allowed(schema)
    return _NOUNS.get(schema.get("type", ""), "a mapping" if "discriminator" in schema else "a value")


def allowed(schema: Schema) -> str:
    """What a value may be: ``a number in 0..1``, ``'chat' or 'completions'``, ``a list, each item ...``."""
    schema = resolve(schema)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return ", ".join(map(repr, schema["enum"][:-1])) + f" or {schema['enum'][-1]!r}"
    if "anyOf" in schema:
        return " or ".join(allowed(option) for option in schema["anyOf"])
    if "discriminator" in schema:
        tag = schema["discriminator"]
        return f"a mapping with {tag['propertyName']}: {', '.join(tag['mapping'])}"
    kind = schema.get("type", "")
    if kind in ("number", "integer"):
        return noun(schema) + _limits(schema)
    if kind == "array":
        least = " (at least one)" if schema.get("minItems") else ""
        return f"a list{least}, each item {allowed(schema['items'])}"
    if kind == "object" and "properties" in schema:
        return f"a mapping with the keys {', '.join(schema['properties'])}"
    if kind == "string" and "pattern" in schema:
        return f"text of the form {schema['pattern']}"
    if kind == "string" and "maxLength" in schema:
        return f"one line of at most {schema['maxLength']} characters"
    return noun(schema)


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" in {low:g}..{high:g}"
    parts = [
        f"{word} {value:g}"
        for word, value in (("of at least", low), ("above", above), ("below", below), ("of at most", high))
        if value is not None
    ]
    return " " + " and ".join(parts) if parts else ""
