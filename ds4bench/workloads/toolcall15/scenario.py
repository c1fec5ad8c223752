"""The battery as data: models of the files under ``prompts/toolcall15`` and their loader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from yaml.nodes import MappingNode, Node

from ds4bench.errors import WorkloadError, reason_of
from ds4bench.paths import prompts_dir
from ds4bench.spec.document import child, compose, key_node, to_plain, where
from ds4bench.workloads.toolcall15.checks import Name, Note, Outcome, named
from ds4bench.workloads.toolcall15.matching import Match, Model

Variant = Literal["v1-original", "v1-jasl"]
"""Name of a protocol (how conversations run) and of a rule set (how traces are scored)."""
Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
VARIANTS: tuple[Variant, ...] = ("v1-original", "v1-jasl")
_Data = TypeVar("_Data", bound=Model)


class MockCase(Model):
    """What a tool answers: to calls whose arguments fit ``when``, to its ``attempt``-th call, in these protocols."""

    when: dict[str, Match] = Field(default_factory=dict)
    attempt: Annotated[int, Field(ge=1)] | None = None
    protocols: Annotated[list[Variant], Field(min_length=1)] | None = None
    result: dict[str, Any] | None = None
    compute: Name | None = None
    """The argument whose arithmetic expression is evaluated: ``{result}`` or ``{error}``."""

    @model_validator(mode="after")
    def _answers_one_way(self) -> MockCase:
        if (self.result is None) == (self.compute is None):
            raise ValueError("a mock needs either result or compute")
        return self


Mocks = dict[str, Annotated[list[MockCase], Field(min_length=1)]]


class Tool(Model):
    """A tool that the model may call; ``parameters`` are JSON Schemas of its arguments."""

    name: Name
    description: Annotated[str, Field(min_length=1)]
    parameters: dict[Name, dict[str, Any]]
    required: list[Name]

    def definition(self, *, hints: bool) -> dict[str, Any]:
        """The tool in OpenAI's form. Without ``hints`` the schemas lose their ``default`` and ``format``."""
        dropped: set[str] = set() if hints else {"default", "format"}
        properties = {
            name: {key: value for key, value in schema.items() if key not in dropped}
            for name, schema in self.parameters.items()
        }
        schema = {"type": "object", "properties": properties, "required": self.required, "additionalProperties": False}
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}


class ToolFile(Model):
    """``tools.yaml``."""

    tools: Annotated[list[Tool], Field(min_length=1)]


def _kind(value: object) -> str:
    return "same" if isinstance(value, str) else "outcomes"


Rules = Annotated[
    Annotated[list[Outcome], Tag("outcomes")] | Annotated[Variant, Tag("same")],
    Discriminator(_kind),  # so that a mistake is told for the one form that is there, not for both
]
"""Outcomes, or the name of the rule set whose outcomes count here too."""


class ScenarioFile(Model):
    """``tc-NN.yaml``."""

    id: Annotated[str, Field(pattern=r"^TC-[0-9]{2}$")]
    title: Annotated[str, Field(min_length=1)]
    category: Literal["A", "B", "C", "D", "E"]
    user: dict[Language, Annotated[str, Field(min_length=1)]]
    mocks: Mocks = Field(default_factory=dict)
    notes: list[Note] = Field(default_factory=list)
    rules: dict[Variant, Rules]

    @model_validator(mode="after")
    def _every_rule_set_decides(self) -> ScenarioFile:
        for name in VARIANTS:
            outcomes = self.outcomes(name)
            if not outcomes or outcomes[-1].all or any(not outcome.all for outcome in outcomes[:-1]):
                raise ValueError(f"rules.{name}: the last outcome, and only the last, must have no conditions")
        if missing := [name for name in LANGUAGES if name not in self.user]:
            raise ValueError(f"user: no text in {', '.join(missing)}")
        return self

    def outcomes(self, rules: Variant) -> list[Outcome]:
        """The outcomes of a rule set; a rule set may stand for another one by its name."""
        listed = self.rules.get(rules, [])
        if isinstance(listed, str):
            listed = self.rules.get(listed, [])
        return listed if isinstance(listed, list) else []


class Protocol(Model):
    """How the conversations run. ``request`` goes into every request's body."""

    hints: bool
    request: dict[str, Any]


class RuleSet(Model):
    """What a rule set says beside the checks of the scenarios."""

    exhausted: Literal["last_text", "empty"]
    """The final answer of a conversation that ran out of turns."""
    total: Literal["category_mean", "points_share"]


class BatteryFile(Model):
    """``battery.yaml``."""

    version: int
    max_turns: Annotated[int, Field(ge=1)]
    system: Annotated[str, Field(min_length=1)]
    categories: dict[Literal["A", "B", "C", "D", "E"], str]
    protocols: dict[Variant, Protocol]
    rule_sets: dict[Variant, RuleSet]
    fallback: Mocks

    @model_validator(mode="after")
    def _covers_everything(self) -> BatteryFile:
        last = self.fallback.get("*", [])
        if not last or last[-1].when or last[-1].attempt or last[-1].protocols:
            raise ValueError("fallback: needs a case '*' that fits every call")
        for name in VARIANTS:
            if name not in self.protocols or name not in self.rule_sets:
                raise ValueError(f"{name} is missing from protocols or from rule_sets")
        return self


class Scenario(pydantic.BaseModel):
    """One conversation to be held: everything that is sent, and what the tools answer."""

    model_config = pydantic.ConfigDict(frozen=True)

    id: str
    title: str
    category: str
    protocol: Variant
    language: Language
    system: str
    user: str
    tools: list[dict[str, Any]]
    mocks: Mocks
    fallback: Mocks
    max_turns: int
    request: dict[str, Any]

    @property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over all of it: two traces with one digest had the same conversation before
        them."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Battery(pydantic.BaseModel):
    """All files together."""

    model_config = pydantic.ConfigDict(frozen=True)

    shared: BatteryFile
    tools: list[Tool]
    files: dict[str, ScenarioFile]
    _digests: dict[tuple[str, str, str], str] = pydantic.PrivateAttr(default_factory=dict)

    def scenarios(self, protocol: Variant, language: Language = "en") -> list[Scenario]:
        """The conversations of a protocol, in the order of their ids."""
        return [self.scenario(name, protocol, language) for name in self.files]

    def scenario(self, name: str, protocol: Variant, language: Language = "en") -> Scenario:
        """One conversation. Raises WorkloadError for an unknown id."""
        file, chosen = self.file(name), self.shared.protocols[protocol]
        return Scenario(
            id=file.id,
            title=file.title,
            category=file.category,
            protocol=protocol,
            language=language,
            system=self.shared.system,
            user=file.user[language],
            tools=[tool.definition(hints=chosen.hints) for tool in self.tools],
            mocks=_cases_of(file.mocks, protocol),
            fallback=_cases_of(self.shared.fallback, protocol),
            max_turns=self.shared.max_turns,
            request=chosen.request,
        )

    def digest(self, name: str, protocol: Variant, language: Language) -> str:
        """``Scenario.digest``, kept: rescoring asks for it once a trace. Raises WorkloadError for an unknown id."""
        key = (name, protocol, language)
        if key not in self._digests:
            self._digests[key] = self.scenario(name, protocol, language).digest
        return self._digests[key]

    def file(self, name: str) -> ScenarioFile:
        """A scenario's file. Raises WorkloadError for an unknown id."""
        if name not in self.files:
            raise WorkloadError(f"no tool-call scenario {name!r}; known: {', '.join(self.files)}")
        return self.files[name]


def _cases_of(mocks: Mocks, protocol: Variant) -> Mocks:
    chosen = {
        tool: [case for case in cases if case.protocols is None or protocol in case.protocols]
        for tool, cases in mocks.items()
    }
    return {tool: cases for tool, cases in chosen.items() if cases}


def load_battery(folder: Path | None = None) -> Battery:
    """Read ``battery.yaml``, ``tools.yaml`` and ``tc-*.yaml`` of ``folder``, default the project's own.

    Raises WorkloadError that names file and line of every mistake.
    """
    folder = folder or prompts_dir() / "toolcall15"
    shared = _read(folder / "battery.yaml", BatteryFile)
    tools = _read(folder / "tools.yaml", ToolFile).tools
    files: dict[str, ScenarioFile] = {}
    for path in sorted(folder.glob("tc-*.yaml")):
        file = _read(path, ScenarioFile)
        if path.stem != file.id.lower():
            raise WorkloadError(f"{path}: holds the scenario {file.id}; call the file {file.id.lower()}.yaml")
        _check_tools(path, file, tools)
        files[file.id] = file
    if not files:
        raise WorkloadError(f"{folder}: no scenario files tc-*.yaml here")
    return Battery(shared=shared, tools=tools, files=files)


def _read(path: Path, model: type[_Data]) -> _Data:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(
            f"{path}: cannot be read: {reason_of(error)}; a battery is a folder with "
            "battery.yaml, tools.yaml and tc-*.yaml"
        ) from None
    root = compose(text, str(path))
    try:
        return model.model_validate(to_plain(root))
    except ValidationError as error:
        lines = dict.fromkeys(_line(item, root) for item in error.errors(include_url=False))
        raise WorkloadError("\n".join(lines)) from None


def _line(item: Mapping[str, Any], root: Node) -> str:
    """One mistake as ``file:line: path: what is wrong``."""
    node, path = root, ""
    for step in item["loc"]:
        below = child(node, step)
        if below is None:
            continue  # the name of a union's member is no step in the file
        inside = isinstance(node, MappingNode)
        place = key_node(node, str(step)) if inside and step == item["loc"][-1] else None
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else str(step)
        node = place or below
    last = str(item["loc"][-1]) if item["loc"] else ""
    text = f"{last!r} is missing" if item["type"] == "missing" else str(item["msg"]).removeprefix("Value error, ")
    return f"{where(node)}: {path}: {text}" if path else f"{where(node)}: {text}"


def _check_tools(path: Path, file: ScenarioFile, tools: list[Tool]) -> None:
    """Raises WorkloadError when mocks or conditions speak of a tool or an argument that there is not."""
    spoken = [(tool, argument) for tool, cases in file.mocks.items() for argument in (None, *_used(cases))]
    for rules in VARIANTS:
        for outcome in file.outcomes(rules):
            spoken.extend(named(outcome.all))
    spoken.extend(pair for note in file.notes for pair in named([note.when]))
    known = {tool.name: tool.parameters for tool in tools}
    for tool, argument in spoken:
        if tool not in known:
            raise WorkloadError(f"{path}: there is no tool {tool!r}; tools.yaml has {', '.join(known)}")
        if argument is not None and argument not in known[tool]:
            raise WorkloadError(f"{path}: {tool} has no argument {argument!r}; it has {', '.join(known[tool])}")


def _used(cases: list[MockCase]) -> set[str]:
    return {argument for case in cases for argument in (*case.when, *([case.compute] if case.compute else []))}
