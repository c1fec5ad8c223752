"""From a gate's name to the effective gate: file, profile overlay, overrides, validation, hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode

from ds4bench.core import DataIdentity
from ds4bench.errors import SpecError
from ds4bench.spec import files
from ds4bench.spec.document import child, merge, override, to_plain, where
from ds4bench.spec.gate import GateSpec, parse_gate
from ds4bench.spec.mistakes import did_you_mean, explain, unknown_workload
from ds4bench.spec.workloads import WORKLOADS

FULL = "full"
"""The profile that is the file itself, without an overlay."""


@dataclass(frozen=True)
class EffectiveGate:
    """A gate as it will be measured and judged.

    ``measurement`` holds the parts that change what is measured (not repeats, deadline, validity or rules:
    these change how it is judged); ``measurement_hash`` is over exactly these. ``data`` is part of it, once the items
    are read.
    """

    spec: GateSpec
    profile: str
    measurement: dict[str, Any]
    measurement_hash: str
    data: DataIdentity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``effective_from_dict`` reads them back."""
        return {
            "profile": self.profile,
            "spec": self.spec.model_dump(mode="json"),
            "measurement": self.measurement,
            "measurement_hash": self.measurement_hash,
            "data": msgspec.to_builtins(self.data),
        }


@dataclass(frozen=True)
class GateInfo:
    """One line of ``ds4bench gates``."""

    name: str
    title: str
    purpose: str
    path: Path
    profiles: list[str]


def effective(spec: GateSpec, profile: str, data: DataIdentity | None = None) -> EffectiveGate:
    """The effective gate of a validated spec and the items that its workload read, if it reads any."""
    measurement = measurement_of(spec)
    if data is not None:
        measurement["data"] = {"name": data.name, "items": data.items, "sha256": data.sha256}
    return EffectiveGate(spec, profile, measurement, measurement_hash(measurement), data)


def effective_from_dict(data: dict[str, Any]) -> EffectiveGate:
    """The gate stored with a run (``run.json``: effective_gate), for ``--resume``.

    Raises SpecError when this version of ds4bench does not know the stored gate any more.
    """
    try:
        stored = data.get("data")
        identity = msgspec.convert(stored, DataIdentity) if stored is not None else None
        return effective(parse_gate(data["spec"]), str(data["profile"]), identity)
    except (KeyError, TypeError, ValidationError, msgspec.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(
            f"the gate stored with the run is not one that this version of ds4bench knows ({reason}); "
            "measure it again instead of resuming"
        ) from None


def measurement_of(spec: GateSpec) -> dict[str, Any]:
    """The parts of a gate that change what is measured, as plain JSON values."""
    parts = spec.model_dump(mode="json", include={"workload", "seed", "request", "matrix", "warmup"})
    del parts["request"]["deadline_s"]
    if type(spec.options).model_fields:
        parts["options"] = spec.options.model_dump(mode="json")
    return {**parts, "workload_version": spec.declared.version}


def measurement_hash(measurement: dict[str, Any]) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON (keys sorted, no spaces)."""
    canonical = json.dumps(measurement, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_gate(
    name_or_path: str,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    repeats: int | None = None,
    directory: Path | None = None,
) -> EffectiveGate:
    """The gate ``name_or_path`` with its profile (default ``full``) and ``path=value`` overrides applied.

    ``directory`` is where names are looked up, default the project's ``gates/``.
    Raises SpecError: one line a mistake, with file and line or the override, what is wrong and what is
    allowed.
    """
    path = files.find(name_or_path, "gate", _gates_dir(directory))
    root, profiles = _read(path)
    wanted = profile or FULL
    known = _profile_names(profiles)
    if wanted not in known:
        raise SpecError(
            f"{files.shown(path)}: no profile {wanted!r}; allowed: {', '.join(known)}{did_you_mean(wanted, known)}"
        )
    overlay = child(profiles, wanted)
    if overlay is not None and not _is_null(overlay):
        root = merge(root, overlay)
    for text in overrides:
        where_to, _, value = text.partition("=") if "=" in text else ("", "", "")
        root = override(root, where_to, value, f"--set {text}")
    if repeats is not None:
        root = override(root, "repeats.count", str(repeats), f"--repeats {repeats}")
    return effective(_validated(root, path), wanted)


def list_gates(directory: Path | None = None) -> list[GateInfo]:
    """All gates by name. Raises SpecError for the first file that is wrong."""
    gates = []
    for path in sorted(_gates_dir(directory).glob("*.yaml")):
        root, profiles = _read(path)
        spec = _validated(root, path)
        gates.append(GateInfo(spec.name, spec.title, spec.purpose, path, _profile_names(profiles)))
    return gates


def _gates_dir(directory: Path | None) -> Path:
    if directory is not None:
        return directory
    from ds4bench.paths import gates_dir

    return gates_dir()


def _read(path: Path) -> tuple[Node, Node]:
    """The gate's own node tree and the node of its ``profiles``."""
    root = files.read(path, "gate", "name, request, rules")
    profiles = child(root, "profiles") or MappingNode(root.tag, [], root.start_mark, root.end_mark)
    own = [(key, value) for key, value in root.value if key.value != "profiles"]
    _check_profiles(profiles)
    return MappingNode(root.tag, own, root.start_mark, root.end_mark), profiles


def _check_profiles(profiles: Node) -> None:
    if not isinstance(profiles, MappingNode):
        raise SpecError(f"{where(profiles)}: profiles: must be a mapping from a profile's name to what it changes")
    for key, value in profiles.value:
        if not isinstance(value, MappingNode) and not _is_null(value):
            raise SpecError(f"{where(value)}: profiles.{key.value}: must be a mapping of what the profile changes")


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and to_plain(node) is None


def _profile_names(profiles: Node) -> list[str]:
    return list(dict.fromkeys([FULL, *(str(key.value) for key, _ in profiles.value)]))


def _validated(root: Node, path: Path) -> GateSpec:
    data = to_plain(root)
    workload = data.get("workload")
    if not isinstance(workload, str) or workload not in WORKLOADS:
        raise SpecError(unknown_workload(root, WORKLOADS))
    try:
        spec = parse_gate(data)
    except ValidationError as error:
        raise SpecError(explain(error, root, workload)) from None
    if spec.name != path.stem:
        node = child(root, "name") or root
        raise SpecError(f"{where(node)}: name: {spec.name!r} must be the file's name; allowed: {path.stem!r}")
    return spec
