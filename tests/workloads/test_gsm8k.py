"""GSM8K: what is sent is lm-eval's own, what is scored is what lm-eval's own evaluation gives, and a torn run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.gate_runner import GateRunner
from ds4bench.report.progress import SilentProgress
from ds4bench.spec.load import EffectiveGate, effective, load_gate
from ds4bench.store import runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of
from ds4bench.workloads.dataset import DataSet
from ds4bench.workloads.gsm8k import Gsm8k, read_data
from ds4bench.workloads.gsm8k_task import Gsm8kTask
from tests.records import run_manifest

ROOT = Path(__file__).parents[2]
NANO = ROOT / "prompts" / "gsm8k-nano"
ITEMS = 12


def gate_of(*overrides: str) -> EffectiveGate:
    """The smoke profile with few questions."""
    few = (f"matrix.limit={ITEMS}", "matrix.batch=6", *overrides)
    return load_gate("gsm8k", profile="smoke", overrides=few, directory=ROOT / "gates")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (NANO / f"{name}.jsonl").read_text().splitlines()]


def target(number: int) -> str:
    """The right answer to a question."""
    return rows("test")[number]["answer"].rpartition("#### ")[2]


def replies(items: Sequence[dict[str, Any]]) -> list[str]:
    """Replies of every kind that the two filters tell apart, of right and wrong questions in turn."""
    shapes = (
        " It is so.\n#### {}",
        " #### {}.",
        " #### ${}",
        " #### 1,{}",
        " first #### {} and then #### 999",
        " first #### 999 and then #### {}",
        " The answer is {}",
        " The answer is {}, not 999",
        "",
        " no number at all",
        " ####{}",
        " #### {} apples\n\n",
    )
    targets = [item["answer"].rpartition("#### ")[2] for item in items]
    return [shapes[place % len(shapes)].format(target) for place, target in enumerate(targets)]


def evaluated_by_lm_eval(reply_to: dict[str, str], cache: Path) -> dict[tuple[str, int], float]:
    """exact_match by filter and question, of lm-eval's own evaluation of its stock task on local files."""
    import lm_eval
    import lm_eval.tasks
    from lm_eval.api.model import LM

    class Stored(LM):  # type: ignore[misc]
        """Gives the stored replies; an unknown prompt is a KeyError."""

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            assert all(r.args[1]["until"] == ["Question:", "</s>", "<|im_end|>"] for r in requests)
            return [reply_to[r.args[0]] for r in requests]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    stock = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    config = yaml.safe_load(stock.read_text()) | {"dataset_path": "json", "dataset_name": None}
    files = {name: str(NANO / f"{name}.jsonl") for name in ("train", "test")}
    config |= {"dataset_kwargs": {"data_files": files, "cache_dir": str(cache)}}
    del config["tag"]
    found = lm_eval.simple_evaluate(
        model=Stored(), tasks=[config], limit=ITEMS, log_samples=True, bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )  # fmt: skip
    return {(row["filter"], row["doc_id"]): row["exact_match"] for row in found["samples"]["gsm8k"]}


def test_both_metrics_equal_lm_evals_own_evaluation_of_the_same_replies(tmp_path: Path) -> None:
    data = read_data(gate_of().spec, None)
    given = replies(data.items)
    theirs = evaluated_by_lm_eval({i["prompt"]: r for i, r in zip(data.items, given, strict=True)}, tmp_path)
    task = Gsm8kTask("completions", rows("train"), rows("test"))
    ours = [task.read(number, reply).scores for number, reply in enumerate(given)]
    assert [scores["strict"] for scores in ours] == [theirs["strict-match", n] for n in range(ITEMS)]
    assert [scores["flexible"] for scores in ours] == [theirs["flexible-extract", n] for n in range(ITEMS)]
    assert [scores["strict"] for scores in ours] == [1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert 0 < sum(scores["flexible"] for scores in ours) < ITEMS
    assert task.read(0, given[0]).extracted == {"strict": target(0), "flexible": target(0)}


def test_the_chat_task_takes_the_last_number_and_sends_the_examples_as_turns() -> None:
    gate = gate_of("request.endpoint=chat")
    data = read_data(gate.spec, None)
    task = Gsm8kTask("chat", rows("train"), rows("test"))
    assert task.read(0, f"as in #### 999, so #### {target(0)}").scores["strict"] == 1
    assert task.read(0, f"so #### {target(0)}, not #### 999").scores["strict"] == 0
    messages = data.items[3]["prompt"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 5 + ["user"]
    assert rows("test")[3]["question"] in messages[-1]["content"]
    assert "Question:" not in data.items[3]["stop"]
    assert "task gsm8k-chat-last v1" in data.identity.name


def test_the_identity_names_set_task_and_examples_and_holds_every_prompt() -> None:
    def identity(*overrides: str, source: str | None = None) -> Any:
        return read_data(gate_of(*overrides).spec, source).identity

    one = identity()
    assert one.name.startswith("gsm8k-nano, task gsm8k v3, 5 shots ")
    assert identity() == one
    assert identity(source=str(NANO)).sha256 == one.sha256
    assert identity(source=str(NANO)).name.startswith("gsm8k, task gsm8k v3")
    others = [identity("seed=1"), identity("options.shots=4"), identity("request.endpoint=chat")]
    assert len({other.name for other in [one, *others]}) == 4
    assert len({other.sha256 for other in [one, *others]}) == 4


def test_wrong_rows_are_named_with_file_and_line(tmp_path: Path) -> None:
    spec = gate_of().spec
    with pytest.raises(WorkloadError, match=r"no such folder; --data wants one that holds train\.jsonl"):
        read_data(spec, str(tmp_path / "nowhere"))
    (tmp_path / "train.jsonl").write_text((NANO / "train.jsonl").read_text())
    (tmp_path / "test.jsonl").write_text(
        '{"question": "1 + 1?", "answer": "#### 2"}\n{"question": "2?", "answer": "2"}\n'
    )
    with pytest.raises(WorkloadError, match=r"test\.jsonl:2: no GSM8K row .*#### N"):
        read_data(spec, str(tmp_path))
    (tmp_path / "test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    with pytest.raises(WorkloadError, match=r"matrix.limit 12: .* has 1 questions; --set matrix.limit=1"):
        read_data(spec, str(tmp_path))


async def first_script(gate: EffectiveGate, result: RequestResult) -> tuple[PlannedRequest, Answer | None]:
    """What the first script sends and returns when the serve gives ``result``."""
    workload = Gsm8k(gate.spec, "run-1", read_data(gate.spec, None))
    fingerprint: Any = None
    endpoint = Endpoint(base_url="http://127.0.0.1:1", model="m", dialect=dialect_of("vllm"), fingerprint=fingerprint)
    control = ControlClient(endpoint.base_url)
    await workload.prepare(endpoint, control)
    script = (await workload.batch(workload._spec.matrix.cells()[0], 0, 0, "measure", control)).scripts[0]
    sent: list[PlannedRequest] = []

    async def send(planned: PlannedRequest) -> RequestResult:
        sent.append(planned)
        return result

    answer = await script.run(send)
    await control.close()
    return sent[0], answer


async def test_a_question_is_sent_greedy_with_the_stop_sequences_of_the_task() -> None:
    planned, answer = await first_script(gate_of(), RequestResult(ok=True, content=f" It is so.\n#### {target(0)}"))
    assert planned.path == "/v1/completions"
    assert planned.body["prompt"].count("Question:") == 6
    assert planned.body["stop"] == ["Question:", "</s>", "<|im_end|>"]
    assert (planned.body["temperature"], planned.body["max_tokens"], planned.body["stream"]) == (0.0, 128, True)
    assert planned.expect == {"item": "test/0"}
    assert answer is not None
    assert answer.scores == {"strict": 1.0, "flexible": 1.0}
    assert answer.detail == {"strict": target(0), "flexible": target(0), "target": target(0), "task": "gsm8k v3"}


@pytest.mark.parametrize(("error", "answered"), [("no_tokens", True), ("deadline", False)])
async def test_an_empty_reply_is_a_wrong_answer_and_a_failed_request_none(error: str, answered: bool) -> None:
    _, answer = await first_script(gate_of(), RequestResult(ok=False, error=error))
    assert (answer is not None) == answered
    assert answer is None or answer.scores == {"strict": 0.0, "flexible": 0.0}


async def measured(serve: str, gate: EffectiveGate, data: DataSet, *, break_after: int | None = None) -> int:
    """Run or resume; returns how many requests were sent. ``break_after``: the client dies after so many."""
    target = AttachTarget(serve, None, None, hardware={})
    endpoint = await target.start(lambda _: None)
    done = runs.load_run("r1") if (runs.run_folder("r1") / runs.MANIFEST).exists() else None
    sent = 0

    class Counting(SilentProgress):
        def request_done(self, *_: Any) -> None:
            nonlocal sent
            sent += 1
            if sent == break_after:
                raise RuntimeError("the client was killed here")

    with runs.RunWriter.reopen("r1") if done else runs.RunWriter.create(run_manifest(gate)) as writer:
        workload = Gsm8k(gate.spec, "r1", data)
        try:
            await GateRunner(gate, target, endpoint, workload, writer, Counting(), probe_ms=None).run(done)
        finally:
            await target.stop()
    return sent


@pytest.mark.integration
async def test_a_torn_run_goes_on_with_the_questions_that_had_no_answer(
    serve: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    gate = gate_of(
        *("request.max_tokens=2", "warmup.requests_per_cell=0", "options.shots=0"),
        *("matrix.limit=6", "matrix.batch=3", "matrix.concurrency=2"),
    )
    data = read_data(gate.spec, None)
    gate = effective(gate.spec, gate.profile, data.identity)
    with pytest.raises(RuntimeError, match="killed here"):
        await measured(serve, gate, data, break_after=5)
    before = {script.key for script in runs.load_run("r1").scripts}
    assert 3 <= len(before) < 6
    assert await measured(serve, gate, data) == 6 - len(before)
    run = runs.load_run("r1")
    assert sorted(script.key for script in run.scripts) == sorted(f"test/{n}" for n in range(6))
    assert all(script.answer and script.answer.scores.keys() == {"strict", "flexible"} for script in run.scripts)
    assert run.manifest.measurement["data"]["name"].startswith("gsm8k-nano, task gsm8k v3, 0 shots ")
