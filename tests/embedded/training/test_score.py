"""Scores over HTTP: the same prompts as the trainer's own evaluation, and real serves that answer right and wrong."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds4bench.embedded.chat.encoding import render, thinking_of
from ds4bench.embedded.tokenizer import Tokenizer
from ds4bench.embedded.training import evaluate, score
from ds4bench.embedded.training.data import battery

_SCRIPTED = Path(__file__).parents[1] / "chat" / "scripted_serve.py"
_WRONG = "A01"


@pytest.mark.parametrize("index", range(0, 60, 7))
def test_the_chat_requests_are_rendered_as_the_trainers_evaluation_does(index: int) -> None:
    item, tokenizer = battery.items()[index], Tokenizer()
    turns = battery.read_turns(item)
    for number in range(len(turns)):
        body = score.request(item, turns[:number])
        prompt = render(
            body["messages"], thinking_of(body["chat_template_kwargs"], body["reasoning_effort"]), tools=body["tools"]
        ).text
        assert tokenizer.encode(prompt) == evaluate._turn_reply(tokenizer, item, number).prompt


def _script(items: list[dict[str, Any]]) -> list[tuple[list[str], str]]:
    """The right reply for what each turn has last; item A01 calls nothing."""
    script = []
    for item in items:
        turns = battery.read_turns(item)
        for number, turn in reversed(list(enumerate(turns))):
            needles = [item["request"], *(result for before in turns[:number] for result in before.results)]
            reply = "I cannot do that." if item["id"] == _WRONG else turn.reply(thinking=item["thinking"])
            script.append((needles, reply))
    return script


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scripted")
    items = score._evenly(battery.items(), 10)
    right, wrong = evaluate.five_shot(score._PROMPTS / "gsm8k-nano-far", 2)
    far = [([right[0]], f" {right[1]}\n\nQuestion:"), ([wrong[0]], " I do not know.\n\nQuestion:")]
    (folder / "script.json").write_text(json.dumps([*far, *_script(items)]))
    command = [sys.executable, str(_SCRIPTED), "--port", "0", "--port-file", str(folder / "port"), "--die-with-parent"]
    command += ["--no-prefix-caching"]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "SCRIPT": str(folder / "script.json")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    deadline = time.monotonic() + 60
    while not (folder / "port").exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "the serve did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{(folder / 'port').read_text().strip()}"
    process.terminate()
    process.wait(20)


@pytest.mark.integration
def test_right_replies_have_all_points_and_a_wrong_one_none(scripted: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    assert score.main(["--tools", "--limit", "10", "--url", scripted, "--json", str(file)]) == 0
    tools = json.loads(file.read_text())["tools"]
    assert {item["id"]: item["points"] for item in tools["items"] if item["points"] != 2} == {_WRONG: 0}
    assert (tools["score"], tools["A"], tools["E"]) == (0.9, 0.5, 1.0)


@pytest.mark.integration
def test_problems_are_strict_matched_and_a_serve_that_does_not_speculate_has_no_mtp(
    scripted: str, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    assert score.main(["--far", "--limit", "2", "--url", f"{scripted}/v1", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["far"] == {"score": 0.5, "count": 2}


def test_mtp_is_read_from_the_serves_counters() -> None:
    text = 'vllm:spec_decode_num_drafts_total{engine="0"} 8.0\nvllm:spec_decode_num_accepted_tokens_total{engine="0"} 12.0\n'
    client = httpx.Client(
        base_url="http://serve", transport=httpx.MockTransport(lambda request: httpx.Response(200, text=text))
    )
    assert score._drafts(client) == (8.0, 12.0)


@pytest.mark.parametrize("arguments", [[], ["--tools", "--url", "http://127.0.0.1:9"]])
def test_nothing_to_score_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(("text", "right"), [("so\n#### 12", True), ("12", False), ("#### 13\n#### 12", False)])
def test_strict_match_takes_the_first_marked_number(text: str, right: bool) -> None:
    assert evaluate.strict_match(text, "6 + 6 = 12\n#### 12") is right
