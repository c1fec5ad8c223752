"""The composed word problems: right answers from what the text tells, whole sentences, and many different ones."""

import random
import re

import pytest

from ds4bench.embedded.training.data import scene_words, scenes, stories, train_templates, words
from ds4bench.embedded.training.data.problems import Problem
from ds4bench.embedded.training.data.scene_builder import NUMBER_WORDS, Quantity, Scene, UnfitError

_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")
_SPELLED = {word: value for value, word in NUMBER_WORDS.items()} | {
    "twice": 2, "half": 2, "third": 3, "quarter": 4, "fifth": 5, "perimeter": 2, "around": 2,
}  # fmt: skip
_NOUNS = {noun for theme in scene_words.THEMES for noun in theme.nouns}
_MASKED = {
    *words.WOMEN, *words.MEN, *scene_words.BOXES, *map(scene_words.plural, scene_words.BOXES), "shelves",
    *scene_words.COLORS, *scene_words.PEOPLE, *scene_words.KIN, *_NOUNS, *map(scene_words.plural, _NOUNS),
}  # fmt: skip
_MASK = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _MASKED), key=len, reverse=True)) + r")\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def drawn() -> list[Problem]:
    rng = random.Random("scenes test")
    return [scenes.scene(rng) for _ in range(10_000)]


def _told(question: str) -> list[int]:
    spelled = [_SPELLED[word] for word in re.findall(r"[a-z]+", question.lower()) if word in _SPELLED]
    return [int(n) for n in re.findall(r"\d+", question)] + spelled


def _skeleton(question: str) -> str:
    text = re.sub(r"\d+|\b(" + "|".join(NUMBER_WORDS.values()) + r")\b", "#", question)
    return re.sub(r"\b([Aa])n? ", r"\1 ", _MASK.sub("_", text))


def test_every_step_is_right_and_uses_only_what_is_told_or_worked_out(drawn: list[Problem]) -> None:
    for item in drawn:
        lines = item.answer.split("\n")
        known = _told(item.question)
        for line in lines[:-1]:
            x, op, y, x2, op2, y2, result, again = _STEP.findall(line)[0]
            assert (x, op, y, result) == (x2, op2, y2, again) and line.count("<<") == 1
            assert eval(f"{x}{op}{y}") == int(result), line
            assert int(x) in known and int(y) in known, item.block()
            known.append(int(result))
        assert lines[-1] == f"#### {known[-1]}" and 1 <= len(lines) - 1 <= 4


def test_every_step_leads_to_the_answer(drawn: list[Problem]) -> None:
    """Each result but the last is an operand of a later step."""
    for item in drawn:
        steps = _STEP.findall(item.answer)
        for i, step in enumerate(steps[:-1]):
            assert any(step[6] in (later[0], later[2]) for later in steps[i + 1 :]), item.block()


def test_texts_are_whole_sentences(drawn: list[Problem]) -> None:
    for item in drawn:
        assert not re.search(r"[{}()\[\]|]|  | [.?,]|\b[A-Z]{3,}\b|[.?] [a-z]", item.question), item.question
        assert not re.search(r"[{}()\[\]|]|  ", item.answer), item.answer
        assert item.question[0] not in "abcdefghijklmnopqrstuvwxyz" and item.question[-1] in ".?"
        assert re.search(r"\b(How|What|Find|With|By|At|For|In|[Hh]ow|[Ww]hat)\b", item.question)


def test_problems_differ_in_text_and_in_sentence_patterns(drawn: list[Problem]) -> None:
    questions = {item.question for item in drawn}
    assert len(questions) >= 9_500
    assert len({_skeleton(question) for question in questions}) >= 3_000


def test_a_seed_gives_the_same_problems(drawn: list[Problem]) -> None:
    rng = random.Random("scenes test")
    assert [scenes.scene(rng) for _ in range(300)] == drawn[:300]


def test_a_fact_that_the_question_needs_is_never_dropped() -> None:
    rng = random.Random(1)
    for _ in range(50):
        made = Scene(rng)
        apples, pears, unused = Quantity(31), Quantity(47), Quantity(1999)
        made.tell("{n} has {x} apples.", apples)
        made.tell("{n} has {x} pears.", pears)
        made.tell("{n} has {x} nuts.", unused)
        made.ask(made.calc(apples, "+", pears, "That is {c}."), "How many is that?")
        text = made.problem().question
        assert "31" in text and "47" in text and "1999" not in text


def test_numbers_that_do_not_fit_are_drawn_again() -> None:
    made = Scene(random.Random(2))
    for left, op, right in ((3, "-", 5), (7, "/", 2), (90, "*", 80), (1999, "+", 2)):
        with pytest.raises(UnfitError):
            made.calc(Quantity(left), op, Quantity(right), "{c}")
    with pytest.raises(UnfitError):
        made.divisor(37)


def test_drills_carry_and_borrow_and_are_right() -> None:
    rng, hard, seen = random.Random(3), 0, 0
    for _ in range(2_000):
        item = stories.drill(rng)
        for x, op, y, *_, result in _STEP.findall(item.answer):
            assert eval(f"{x}{op}{y}") == int(result)
            if op in "+-":
                ones = int(x[-1]), int(y[-1])
                hard += sum(ones) > 9 if op == "+" else ones[0] < ones[1]
                seen += 1
        assert item.number == int(_STEP.findall(item.answer)[-1][-1])
    assert hard / seen > 0.55


def test_the_few_shot_examples_are_the_first_templates_only() -> None:
    first = train_templates.FEW_SHOT
    assert train_templates.TEMPLATES[: len(first)] == first
    assert len(train_templates.TEMPLATES) - len(first) >= 80
    assert len({template.problem for template in train_templates.TEMPLATES}) == len(train_templates.TEMPLATES)
