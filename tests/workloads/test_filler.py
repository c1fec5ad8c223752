"""Generated filler text."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from ds4bench.errors import WorkloadError
from ds4bench.workloads.filler import Filler, load_filler

CODES = ["111111", "222222", "333333"]


@pytest.fixture(scope="module")
def filler() -> Filler:
    return load_filler()


def test_the_same_seed_gives_the_same_text_and_another_seed_another(filler: Filler) -> None:
    first = filler.sentences(random.Random("a"), 50)
    assert first == filler.sentences(random.Random("a"), 50)
    assert first != filler.sentences(random.Random("b"), 50)


def test_the_codes_are_the_only_digits_after_the_salt(filler: Filler) -> None:
    text = filler.compose("", filler.sentences(random.Random(1), 500), CODES, 3)
    for code in CODES:
        text = text.replace(code, "")
    assert not any(character.isdigit() for character in text)


def test_a_longer_text_begins_like_a_shorter_one(filler: Filler) -> None:
    assert filler.sentences(random.Random(5), 80)[:30] == filler.sentences(random.Random(5), 30)


@pytest.mark.parametrize("seed", range(5))
def test_every_template_and_word_is_dealt_as_often_as_its_neighbours(seed: int) -> None:
    made = Filler("", [], "", "", ["{a} one", "{a} {b} two"], {"a": ["x", "y", "z"], "b": ["p", "q"]})
    words = Counter(word for sentence in made.sentences(random.Random(seed), 101) for word in sentence.split())
    for deck in (["x", "y", "z"], ["p", "q"], ["one", "two"]):
        counts = [words[word] for word in deck]
        assert max(counts) - min(counts) <= 1


def test_the_salt_comes_before_everything(filler: Filler) -> None:
    assert filler.compose("abcd\n", ["S."], CODES, 0).startswith("abcd\n" + filler.introduction)


@pytest.mark.parametrize("text", ["", "- a list", "introduction: x", "a: [", "introduction: {}\nmore: 1"])
def test_a_file_that_is_no_filler_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "filler.yaml"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=r"filler\.yaml"):
        load_filler(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"nothing\.yaml"):
        load_filler(tmp_path / "nothing.yaml")
