"""GSM8K: grade-school word problems after solved examples, scored by lm-eval's own task (``gsm8k_task``).

Requests are sent by our driver, so that they are timed, stored one by one, and resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.gsm8k import Gsm8kMatrix, Gsm8kOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.dataset import DataSet, make_dataset
from ds4bench.workloads.gsm8k_data import read_rows
from ds4bench.workloads.gsm8k_task import Gsm8kTask, Question
from ds4bench.workloads.request_body import PATHS, salt_of, sampling_fields, template_fields


def read_data(spec: GateSpec, source: str | None) -> DataSet:
    """The questions as they will be sent, of the folder ``source``, of the hub, or the project's own, as the gate says.

    The identity names the set, lm-eval's task with its version, and the examples; its hash is over every prompt, target
    and stop sequence. Two runs with other examples or another task are not comparable, and the refusal shows which.
    Raises WorkloadError for rows that are wrong or too few.
    """
    matrix, options = spec.matrix, spec.options
    assert isinstance(matrix, Gsm8kMatrix)
    assert isinstance(options, Gsm8kOptions)
    rows = read_rows(options.data, source)
    if matrix.limit > len(rows.test):
        raise WorkloadError(
            f"matrix.limit {matrix.limit}: {source or rows.name} has {len(rows.test)} questions; "
            f"--set matrix.limit={len(rows.test)}"
        )
    if options.shots > len(rows.train):
        raise WorkloadError(f"options.shots {options.shots}: {source or rows.name} has {len(rows.train)} examples")
    task = Gsm8kTask(spec.request.endpoint, rows.train, rows.test)
    questions = task.questions(limit=matrix.limit, shots=options.shots, seed=spec.seed)
    items = [_item(question, rows.test[question.number]) for question in questions]
    name = f"{rows.name}, task {task.name} v{task.version}, {options.shots} shots {_shots_hash(questions)}"
    return make_dataset(name, items, source)


def _item(question: Question, row: dict[str, str]) -> dict[str, Any]:
    return {"id": f"test/{question.number}", **row, "prompt": question.prompt, "stop": question.stop}


def _shots_hash(questions: Sequence[Question]) -> str:
    """Eight hex digits over all that stands before the questions themselves."""
    before = [
        question.prompt.rpartition("Question:")[0] if isinstance(question.prompt, str) else question.prompt[:-1]
        for question in questions
    ]
    return hashlib.sha256(json.dumps(before, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:8]


class Gsm8k:
    """The workload of the gsm8k gate: scores ``strict`` and ``flexible`` of every question, 1 or 0."""

    def __init__(self, spec: GateSpec, run_id: str, data: DataSet | None) -> None:
        if data is None:
            raise WorkloadError("gsm8k needs its questions: read_data() comes first")
        self._spec, self._run_id = spec, run_id
        self._items = data.items
        rows = [{"question": item["question"], "answer": item["answer"]} for item in data.items]
        self._task = Gsm8kTask(spec.request.endpoint, rows, rows)
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``."""
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """The questions of a cell. Warm-up before the first cell only: the shapes of all cells are alike."""
        first, last = int(cell.params["first"]), int(cell.params["last"])
        numbers = list(range(first, last + 1))
        if phase == "warmup":
            wanted = self._spec.warmup.requests_per_cell
            numbers = numbers[: cell.concurrency if wanted == "concurrency" else wanted] if first == 0 else []
        names = f"{phase} {repeat} {attempt}"
        return Batch([self._script(cell, number, names) for number in numbers], slots=cell.concurrency)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: the script reads its reply."""
        return None

    def _script(self, cell: Cell, number: int, names: str) -> Script:
        item = self._items[number]
        planned = PlannedRequest(
            cell.id, number, PATHS[self._spec.request.endpoint], self._body(item, names), {"item": item["id"]}
        )

        async def run(send: Send) -> Answer | None:
            result = await send(planned)
            empty = result.error == "no_tokens"  # an empty completion is a wrong answer; how many there are is checked
            return self._read(number, result.content) if result.ok or empty else None

        return Script(key=item["id"], run=run, first=planned)

    def _read(self, number: int, reply: str) -> Answer:
        reading = self._task.read(number, reply)
        target = self._items[number]["answer"].rpartition("#### ")[2].strip()
        detail = {**reading.extracted, "target": target, "task": f"{self._task.name} v{self._task.version}"}
        return Answer(scores=reading.scores, detail=detail)

    def _body(self, item: dict[str, Any], names: str) -> dict[str, Any]:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        spec, endpoint, prompt = self._spec.request, self._endpoint, item["prompt"]
        body = {
            **template_fields(spec, endpoint),
            "prompt" if isinstance(prompt, str) else "messages": prompt,
            **sampling_fields(spec, endpoint),
            "stop": item["stop"],
        }
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt_of(self._run_id, f"{names} {item['id']}")
        return {**body, **spec.extra_body}
