"""First turns of MT-bench's questions over a sweep of concurrency, closed loop: how long a token takes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.mt_bench import MtBenchOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, one_request
from ds4bench.workloads.dataset import DataSet, make_dataset, read_jsonl
from ds4bench.workloads.request_body import PATHS, prompt_fields, salt_of, sampling_fields, template_fields

_HUB = "philschmid/mt-bench"
_OWN = "mt-bench-ds4"


def read_data(spec: GateSpec, source: str | None) -> DataSet:
    """Questions of ``source`` (FastChat's question.jsonl), of the hub, or the project's own set, as the gate says.

    A local copy and the hub's have the same name and, question by question, the same hash; the project's own set has
    another of both, so that it is never compared with the real one.
    """
    assert isinstance(spec.options, MtBenchOptions)
    if source is not None:
        return make_dataset("mt-bench", _from_file(Path(source)), source)
    if spec.options.data == _OWN:
        return make_dataset(_OWN, _from_file(prompts_dir() / _OWN / "question.jsonl"))
    return make_dataset("mt-bench", _from_hub())


def _from_file(path: Path) -> list[dict[str, Any]]:
    questions = []
    for number, row in read_jsonl(path):
        try:
            questions.append(_question(row))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkloadError(
                f"{path}:{number}: no question of FastChat's form ({error}); needed are question_id, category and turns, "
                "a list of texts"
            ) from None
    return questions


def _from_hub() -> list[dict[str, Any]]:
    hint = f"give a local copy with --data question.jsonl, or take the project's own with --set options.data={_OWN}"
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise WorkloadError(f"reading {_HUB} needs the package datasets (pip install datasets); or {hint}") from None
    try:
        rows = list(load_dataset(_HUB, split="train"))
    except Exception as error:  # the hub's client raises many kinds, and all mean the same here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkloadError(f"{_HUB} cannot be read: {reason}; {hint}") from None
    try:
        return [_question(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(f"{_HUB} has a row of another form: {error}; {hint}") from None


def _question(row: Any) -> dict[str, Any]:
    """The parts of a question that both sources have."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("turns is no list of texts")
    return {"question_id": int(row["question_id"]), "category": str(row["category"]), "turns": list(turns)}


class MtBench:
    """The workload of the mt-bench gate.

    Every cell of a repeat sends the questions in an order that the gate's seed and the repeat decide, as often as it needs to
    have its number of requests. With ``request.salt`` each carries a ``cache_salt`` where the serve knows it; the text of a
    question stays as it is.
    """

    def __init__(self, spec: GateSpec, run_id: str, data: DataSet | None) -> None:
        assert isinstance(spec.options, MtBenchOptions)
        if data is None:
            raise WorkloadError("mt_bench needs its questions: read_data() comes first")
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._questions = data.items
        self._path = PATHS[spec.request.endpoint]
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``."""
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        warmup = self._spec.warmup.requests_per_cell
        if phase == "warmup":
            count = cell.concurrency if warmup == "concurrency" else warmup
        else:
            count = max(self._options.least_requests, self._options.requests_per_slot * cell.concurrency)
        questions = self._dealt(repeat, count)
        names = [f"{cell.id} {phase} {repeat} {attempt} {index}" for index in range(count)]
        requests = [self._request(cell, i, q, n) for i, (q, n) in enumerate(zip(questions, names, strict=True))]
        return Batch([one_request(planned) for planned in requests], slots=cell.concurrency)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: this gate judges times."""
        return None

    def _dealt(self, repeat: int, count: int) -> list[dict[str, Any]]:
        """Every question before one comes again; the same order in every cell and run."""
        rng = random.Random(f"{self._spec.seed} {repeat}")  # noqa: S311 - an order, not a secret
        dealt: list[dict[str, Any]] = []
        while len(dealt) < count:
            dealt += rng.sample(self._questions, len(self._questions))
        return dealt[:count]

    def _request(self, cell: Cell, index: int, question: dict[str, Any], name: str) -> PlannedRequest:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        spec, endpoint = self._spec.request, self._endpoint
        body = {
            **template_fields(spec, endpoint),
            **prompt_fields(spec, question["turns"][0]),
            **sampling_fields(spec, endpoint),
        }
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt_of(self._run_id, name)
        expect = {"question_id": question["question_id"], "category": question["category"]}
        return PlannedRequest(cell.id, index, self._path, {**body, **spec.extra_body}, expect)
