"""Dialogues with tools: each call can be made from what stands before it, and nothing is refused that is offered."""

import random
import re

import pytest

from ds4bench.embedded.chat.special_tokens import ASSISTANT, USER
from ds4bench.embedded.training.data import dialogues, tool_pools, tools
from ds4bench.embedded.training.data.tools import Scenario
from ds4bench.embedded.training.dataset import TextBatches


@pytest.fixture(scope="module")
def played() -> list[tuple[dialogues.Kit, Scenario]]:
    rng = random.Random("dialogues test")
    kits = [dialogues.kit(rng, rng.randint(1, 8)) for _ in range(120)]
    return [(kit, kit.scenario(rng)) for kit in kits for _ in range(6)]


def test_calls_are_of_offered_tools_with_their_parameters(played: list[tuple[dialogues.Kit, Scenario]]) -> None:
    for kit, s in played:
        for name, arguments in (call for turn in s.turns for call in turn.calls):
            assert list(kit.schemas[name]["parameters"]["properties"]) == list(arguments)


def test_every_argument_stands_in_the_request_or_a_result(played: list[tuple[dialogues.Kit, Scenario]]) -> None:
    for _, s in played:
        told = s.request
        for turn in s.turns:
            for value in (value for _, arguments in turn.calls for value in arguments.values()):
                assert value is True or str(value) in told, (value, told)
            told += " ".join(turn.results)


def test_a_refused_tool_is_not_offered_and_many_are_like_one_that_is(
    played: list[tuple[dialogues.Kit, Scenario]],
) -> None:
    refusals = [(kit, name) for kit, s in played for name in tools.refused_names([s])]
    assert len(refusals) > 50 and all(name not in kit.schemas for kit, name in refusals)
    parts = [({n.rpartition("_")[::2] for n in kit.schemas}, name.rpartition("_")[::2]) for kit, name in refusals]
    alike = [any(verb == v or noun == n for v, n in names) for names, (verb, noun) in parts]
    assert 0.3 < sum(alike) / len(alike) < 0.9


def test_requests_have_no_unfilled_slot_and_no_held_out_word_is_invented(
    played: list[tuple[dialogues.Kit, Scenario]],
) -> None:
    assert not [s.request for _, s in played if re.search(r"[{}\[\]]", s.request)]
    rng = random.Random(1)
    words = {tool_pools.invent(rng) for _ in range(20_000)}
    held_out = tool_pools.HELD_OUT
    assert len(words) > 8_000
    assert not words & {*held_out.nouns, *held_out.actions, *held_out.lookups, *held_out.values}


def test_almost_every_letter_token_is_among_the_invented_words() -> None:
    """A token that training never shows could not be copied."""
    batches, rng = TextBatches(), random.Random(2)
    seen = {token for _ in range(20_000) for token in batches.row(_learned(tool_pools.invent(rng)))[0]}
    pieces = {batches._tokenizer.token_to_id(piece) for piece in tool_pools._pieces()}
    assert len(pieces & seen) / len(pieces) > 0.97


@pytest.mark.parametrize("make", [dialogues.dialogue, dialogues.short_dialogue, dialogues.echo])
def test_dialogues_fill_their_room_and_are_mostly_replies(make) -> None:  # type: ignore[no-untyped-def]
    rng, learned, used = random.Random(3), 0, 0
    for _ in range(12):
        example = make(rng, 7000)
        text = example.text()
        assert 6000 < len(text) < 9500 and text.count(USER) == text.count(ASSISTANT) > 3
        learned += sum(len(piece.text) for piece in example.pieces if piece.learned)
        used += len(text)
    assert learned / used > 0.3


def test_another_use_of_a_tool_has_the_same_schema_and_other_values() -> None:
    rng = random.Random(4)
    tool = tools.tool(rng, tool_pools.TRAIN, lookup=False)
    uses = [tools.again(rng, tool_pools.TRAIN, tool) for _ in range(20)]
    assert all(use.schema == tool.schema for use in uses) and len({use.says for use in uses}) > 1


def _learned(text: str) -> dialogues.Example:
    return dialogues.Example().learned(text)
