"""The gates as the detection matrix measures them, and one hash of all that decides what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ds4bench.errors import SpecError
from ds4bench.run_session import Prepared, prepare
from ds4bench.spec.load import EffectiveGate, load_gate, measurement_hash
from ds4bench.spec.suite import SuiteEntry, SuiteSpec
from ds4bench.suite_runner import compares
from ds4bench.verdicts.rules.comparison import judges_times

_QUIET_OFF = ("validity.max_foreign_cpu_share=1.0", "validity.machine_drift=1.0")
_WORDS = frozenset({"title", "purpose"})
"""Parts of a gate that only people read."""
_ADDED = frozenset({"among"})
"""Options of rules that did not exist when cells were measured: where they are not given the gate is the one it was."""


@dataclass
class MatrixGates:
    """``suite`` says what is overridden in a gate, ``repeats`` how often it is repeated instead. ``busy``: other work
    shares the machine, which is not asked to be quiet."""

    suite: SuiteSpec
    repeats: Mapping[str, int] = field(default_factory=dict)
    busy: bool = False
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _hashes: dict[str, str] = field(default_factory=dict)

    def prepared(self, name: str) -> Prepared:
        """The gate and its items. Raises SpecError, WorkloadError."""
        if name not in self._prepared:
            self._prepared[name] = self._load(name, quiet=not self.busy)
        return self._prepared[name]

    def hash_of(self, name: str) -> str:
        """The hash of the gate as it is now, the same on a busy machine; empty for a gate that there is no more."""
        if name not in self._hashes:
            try:
                self._hashes[name] = gate_hash(self._load(name, quiet=True).gate)
            except SpecError:
                self._hashes[name] = ""
        return self._hashes[name]

    def _load(self, name: str, *, quiet: bool) -> Prepared:
        entry = next((entry for entry in self.suite.gates if entry.gate == name), SuiteEntry(gate=name))
        overrides = [*entry.overrides, *(() if quiet else _QUIET_OFF)]
        repeats = self.repeats.get(name, entry.repeats)
        gate = load_gate(name, profile=entry.profile or self.suite.profile, overrides=overrides, repeats=repeats)
        return prepare(gate, entry.data)


def gate_hash(gate: EffectiveGate) -> str:
    """Over the whole gate, with its rules, validity and repeats, over the items that it reads, and over how it is asked."""
    spec = {name: part for name, part in gate.spec.model_dump(mode="json").items() if name not in _WORDS}
    spec["rules"] = [
        {name: value for name, value in rule.items() if value is not None or name not in _ADDED}
        for rule in spec["rules"]
    ]
    asked = {"in_turns": True} if compares_times(gate) else {}
    return measurement_hash({"profile": gate.profile, "spec": spec, "measurement": gate.measurement, **asked})


def compares_times(gate: EffectiveGate) -> bool:
    """Whether the gate compares times, so that a healthy serve must be asked in turns with the broken one."""
    return judges_times(gate.spec) and compares(gate.spec)
