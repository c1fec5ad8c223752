"""The battery as the workload of a gate: every scenario a conversation, every mode a cell, every repeat a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.toolcall15 import ToolCall15Options
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.dataset import DataSet, make_dataset
from ds4bench.workloads.request_body import PATHS, salt_of, sampling_fields
from ds4bench.workloads.toolcall15.conversation import Messages, converse
from ds4bench.workloads.toolcall15.modes import Mode, mode_of
from ds4bench.workloads.toolcall15.reply import Reply, reply_of_result
from ds4bench.workloads.toolcall15.rules import score
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery, Scenario, load_battery
from ds4bench.workloads.toolcall15.summary import FULL
from ds4bench.workloads.toolcall15.trace import Trace


def read_data(spec: GateSpec, source: str | None) -> DataSet:
    """The scenarios of the project, or of the folder ``source``. Texts, mocks and outcomes are all in the identity.

    Raises WorkloadError for files that are wrong, and for a request that contradicts the workload.
    """
    assert isinstance(spec.options, ToolCall15Options)
    if spec.request.thinking is not None:
        raise WorkloadError("request.thinking: the axis matrix.mode says who thinks; leave it out")
    if spec.request.endpoint != "chat":
        raise WorkloadError("request.endpoint: tools are called over chat only; write endpoint: chat")
    battery = _battery(source)
    items = [
        {
            "scenario": scenario.model_dump(mode="json"),
            "rules": battery.file(scenario.id).model_dump(mode="json", include={"category", "rules", "notes"}),
        }
        for scenario in _held(battery, spec.options)
    ]
    return make_dataset("toolcall15", items, source)


class ToolCall15:
    """The workload of the toolcall-15 gate.

    A conversation is scored by both rule sets (scores ``v1-jasl`` and ``v1-original``); ``points``, ``category-a`` and
    ``tc-01`` are by the gate's own. All are shares of full points. ``clean`` is 1 without tool-call markup in any
    reply's text, ``called`` is 1 with any call whose arguments arrived: of any tool, whether that was asked or not.
    ``tried`` is 1 with any call or markup: only of such a conversation does ``clean`` say something.
    """

    def __init__(self, spec: GateSpec, run_id: str, data: DataSet | None) -> None:
        assert isinstance(spec.options, ToolCall15Options)
        if data is None:
            raise WorkloadError("toolcall15 needs its scenarios: read_data() comes first")
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._battery = _battery(data.identity.source)
        self._scenarios = _held(self._battery, self._options)
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``."""
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """All scenarios in one mode, one round."""
        scenarios = self._scenarios
        if phase == "warmup":
            count = self._spec.warmup.requests_per_cell
            scenarios = scenarios[: cell.concurrency if count == "concurrency" else count]
        name = f"{cell.id} {phase} {repeat} {attempt}"
        scripts = [self._script(cell, repeat, number, item, name) for number, item in enumerate(scenarios)]
        return Batch(scripts, slots=min(cell.concurrency, len(scripts)) or None)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: only a whole conversation has points."""
        return None

    def _script(self, cell: Cell, repeat: int, number: int, scenario: Scenario, name: str) -> Script:
        mode = mode_of(str(cell.params["mode"]))
        salt = salt_of(self._run_id, f"{name} {scenario.id}")

        async def run(send: Send) -> Answer:
            turns = 0

            async def ask(messages: Messages, tools: list[dict[str, Any]], mode: Mode) -> Reply:
                nonlocal turns
                body = self._body(scenario, messages, tools, mode, salt)
                index = number * scenario.max_turns + turns
                planned = PlannedRequest(cell.id, index, PATHS["chat"], body, _expected(scenario, mode, turns))
                turns += 1
                return reply_of_result(await send(planned))

            return self._answer(await converse(scenario, mode, ask, round_=repeat))

        return Script(key=scenario.id, run=run)

    def _body(
        self, scenario: Scenario, messages: Messages, tools: list[dict[str, Any]], mode: Mode, salt: str
    ) -> dict[str, Any]:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        request, dialect = self._spec.request, self._endpoint.dialect
        body = {
            "model": self._endpoint.model,
            **scenario.request,
            **sampling_fields(request, self._endpoint),
            "messages": messages,
            "tools": tools,
            **mode.body(dialect.thinking),
        }
        if request.salt and dialect.cache_salt:
            body["cache_salt"] = salt
        return {**body, **request.extra_body}

    def _answer(self, trace: Trace) -> Answer:
        by_rules = {rules: score(trace, self._battery, rules) for rules in VARIANTS}
        chosen = by_rules[self._options.rules]
        share = chosen.points / FULL
        scores = {"points": share, f"category-{chosen.category.lower()}": share, chosen.scenario.lower(): share}
        scores |= {rules: item.points / FULL for rules, item in by_rules.items()}
        leaked = "markup_leak" in chosen.diagnoses
        scores["clean"] = float(not leaked)
        scores["tried"] = float(leaked or bool(trace.calls))
        scores["called"] = float(any(call.arguments for call in trace.calls))  # malformed ones were read as none
        return Answer(scores=scores, detail={"trace": msgspec.to_builtins(trace), "score": msgspec.to_builtins(chosen)})


def _expected(scenario: Scenario, mode: Mode, turn: int) -> dict[str, Any]:
    """What the checks hold a reply against. A model that thinks may skip it after a tool's result, never the first time."""
    return {
        "scenario": scenario.id,
        "thinking": None if mode.thinking and turn else mode.thinking,
        "effort": mode.effort,
    }


def _held(battery: Battery, options: ToolCall15Options) -> list[Scenario]:
    """The scenarios of the gate, in the order of their ids. Raises WorkloadError for an unknown id."""
    chosen = options.scenarios or list(battery.files)
    for name in chosen:
        battery.file(name)
    return [item for item in battery.scenarios(options.protocol, options.language) if item.id in chosen]


def _battery(source: str | None) -> Battery:
    return load_battery(Path(source) if source is not None else None)
