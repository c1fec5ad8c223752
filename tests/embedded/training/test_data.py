"""The generated text: right answers, the serve's own forms, and held-out items that no training text has."""

import json
import random
import re
from pathlib import Path

import pytest

from ds4bench.embedded.chat.encoding import Thinking, render, render_reply
from ds4bench.embedded.training import evaluate
from ds4bench.embedded.training.data import (
    arithmetic,
    battery,
    chat,
    held_out,
    held_out_templates,
    retrieval,
    tool_pools,
    tools,
    train_templates,
)
from ds4bench.embedded.training.data.problems import Problem, TemplateError, parse
from ds4bench.embedded.training.data.skeleton import skeleton
from ds4bench.embedded.training.dataset import BatchKey, TextBatches
from ds4bench.workloads.filler import load_filler

PROMPTS = Path(__file__).parents[3] / "prompts"
_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")


def test_worked_answers_are_right() -> None:
    rng = random.Random(1)
    for _ in range(400):
        item = arithmetic.problem(rng)
        steps = _STEP.findall(item.answer)
        assert steps, item.answer
        for x, op, y, x2, op2, y2, result, again in steps:
            assert (x, op, y, result) == (x2, op2, y2, again)
            value = {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y), "/": int(x) / int(y)}[op]
            assert value == int(result)
        assert item.number == int(steps[-1][-1])


def _problems(folder: str, name: str) -> list[Problem]:
    lines = (PROMPTS / folder / f"{name}.jsonl").read_text().splitlines()
    return [Problem(**json.loads(line)) for line in lines]


def test_every_template_has_values() -> None:
    rng = random.Random(2)
    for template in train_templates.TEMPLATES + held_out_templates.TEMPLATES:
        assert "{" not in template.draw(rng).block()
    assert len(train_templates.TEMPLATES) >= 60 and len(held_out_templates.TEMPLATES) >= 15


def test_a_template_without_values_is_an_error() -> None:
    with pytest.raises(TemplateError, match="no values fit"):
        parse("a 2-3, b 9-9 | {a} {b}? | [x=a-b]")[0].draw(random.Random(0))
    with pytest.raises(TemplateError, match="not 'ranges"):
        parse("a 2-3 | {a}")


def test_far_problems_share_no_template_and_no_question_with_training() -> None:
    assert not {t.problem for t in train_templates.TEMPLATES} & {t.problem for t in held_out_templates.TEMPLATES}
    far = {item.question for item in held_out.far_items()}
    rng = random.Random(3)
    assert len(far) == held_out.ITEMS
    assert not {skeleton(q) for q in far} & {skeleton(arithmetic.problem(rng).question) for _ in range(5000)}


def test_training_leaves_out_the_skeletons_of_the_held_out_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    barred = skeleton(_problems("gsm8k-nano", "test")[0].question)
    assert barred in held_out.skeletons() and len(held_out.skeletons()) == held_out.ITEMS
    offered = iter([_problems("gsm8k-nano", "test")[0], Problem("What is 1 + 1?", "#### 2")])
    monkeypatch.setattr(arithmetic, "drawn", lambda rng: next(offered))
    assert arithmetic.problem(random.Random(0)).question == "What is 1 + 1?"


def test_held_out_problems_have_skeletons_of_their_own() -> None:
    rng = random.Random(5)
    known = {skeleton(arithmetic.drawn(rng).question) for _ in range(2000)}
    items = held_out.near_items(arithmetic.drawn, known, "a seed")
    shapes = {skeleton(item.question) for item in items}
    assert len(shapes) == held_out.ITEMS and not shapes & known


@pytest.mark.parametrize(
    ("one", "other"),
    [("Tom has 3 red apples.", "Mary has 120 blue pears."), ("He sold twelve cakes.", "He sold 5 pies.")],
)
def test_a_skeleton_masks_numbers_names_and_nouns_only(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other) != skeleton(other.replace("has", "had").replace("sold", "sells"))


@pytest.mark.parametrize(
    ("folder", "name", "items"),
    [("gsm8k-nano-far", "test", held_out.far_items), ("gsm8k-nano-far", "train", arithmetic.few_shot_pool),
     ("gsm8k-nano", "train", arithmetic.few_shot_pool)],
)  # fmt: skip
def test_shipped_problems_are_the_generators(folder: str, name: str, items) -> None:
    assert _problems(folder, name) == items()


def test_shipped_battery_is_the_generators() -> None:
    shipped = json.loads((PROMPTS / "tool-battery" / "battery.json").read_text())
    assert shipped == json.loads(json.dumps(battery.items())) and len(shipped) == 60


def test_the_battery_has_tools_and_wordings_of_its_own() -> None:
    train, test = tool_pools.TRAIN, tool_pools.HELD_OUT
    for part in ("actions", "lookups", "nouns", "requests", "pairs", "chains", "places", "texts", "errors", "values"):
        assert not set(getattr(train, part)) & set(getattr(test, part)), part
    names = {tool["name"] for item in battery.items() for tool in item["tools"]}
    rng = random.Random(4)
    assert not names & {tool["name"] for _ in range(3000) for tool in tools.scenario(rng).tools}


def test_the_journal_has_the_workloads_text_but_not_its_filler() -> None:
    filler = load_filler()
    assert filler.introduction.strip() == retrieval.INTRODUCTION
    assert list(retrieval.CODE_SENTENCES) == filler.code_sentences and filler.question.strip() == retrieval.QUESTION
    assert not set(retrieval._TEMPLATES) & set(filler.templates)


def test_a_journals_reply_has_its_codes() -> None:
    example = retrieval.journal(random.Random(5), 3000)
    given, reply = example.pieces[0].text, example.pieces[1].text
    assert all(code in given for code in re.findall(r"\d{6}", reply)) and len(re.findall(r"\d{6}", reply)) >= 3


@pytest.mark.parametrize("thinking", [False, True])
def test_chat_is_rendered_as_the_encoder_does(thinking: bool) -> None:
    """A dialogue with tools, read back as messages and rendered by the serve's encoder, is the same text."""
    rng = random.Random(6)
    for category in "ABCDE":
        s = tools.scenario(rng, category=category)
        offered = tools.offered(rng, tool_pools.TRAIN, s.tools, 4)
        system = "You are a helpful assistant."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": s.request}]
        text = chat.head(system, offered, effort=thinking) + chat.user(s.request, thinking=thinking)
        mode = Thinking(thinking, "high")
        wrapped = [{"type": "function", "function": tool} for tool in offered]
        for turn in s.turns:
            assert text == render(messages, mode, tools=wrapped).text
            made = [
                {"id": f"{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for i, (name, arguments) in enumerate(turn.calls)
            ]
            message = {"role": "assistant", "content": turn.text, "reasoning": turn.thought, "tool_calls": made}
            reply = turn.reply(thinking=thinking) + "<｜end▁of▁sentence｜>"
            assert reply == render_reply(message, mode)
            results = [{"role": "tool", "tool_call_id": f"{i}", "content": r} for i, r in enumerate(turn.results)]
            messages += [message, *results]
            text += reply + chat.tool_results(turn.results, thinking=thinking)


def test_a_right_dialogue_scores_two_points_and_a_wrong_argument_one() -> None:
    item = battery.items()[0]
    turns = battery.read_turns(item)
    texts = [turn.reply(thinking=item["thinking"]) for turn in turns]
    assert evaluate.score(turns, texts) == 2
    value = str(next(iter(turns[0].calls[0][1].values())))
    assert evaluate.score(turns, [texts[0].replace(value, "x1"), *texts[1:]]) == 1
    assert evaluate.score(turns, ["I cannot do that."] * len(turns)) == 0


@pytest.mark.parametrize("length", [512, 2048, 8192])
def test_a_batch_depends_on_its_key_alone_and_learns_replies(length: int) -> None:
    key = BatchKey(1, 5, length, 2 * length)
    ids, weights = TextBatches()[key]
    again, _ = TextBatches()[key]
    assert ids.shape == weights.shape == (2, length) and (ids == again).all()
    assert (weights == 1.0).any(dim=1).all()


def test_learned_tokens_are_the_replies() -> None:
    batches = TextBatches()
    example = arithmetic.few_shot(random.Random(7), 600)
    ids, weights = batches.row(example)
    learned = batches._tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w == 1.0])
    assert learned == "".join(piece.text for piece in example.pieces if piece.learned)
