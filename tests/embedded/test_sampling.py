"""Accepting a draft never changes what is drawn: neither the greedy token nor any distribution."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor

from ds4bench.embedded.sampling import distribution, draw, sample
from ds4bench.embedded.sequence import Draft, SamplingParams, Sequence

VOCAB = 6
EOS = 5
TRIALS = 4000
GENERATOR = torch.Generator().manual_seed(8)
TARGET = torch.randn(3, VOCAB, generator=GENERATOR) * 1.5
PROPOSAL = torch.randn(2, VOCAB, generator=GENERATOR) * 1.5
GREEDY = SamplingParams(temperature=0.0)


def sequence(params: SamplingParams, outputs: int = 0) -> Sequence:
    return Sequence([3], params, output_ids=[2] * outputs)


def tokens(params: SamplingParams, draft: Draft, rows: Tensor = TARGET) -> list[int]:
    chosen = sample(rows[: 1 + len(draft.tokens)].clone(), [sequence(params)], [draft], EOS)
    return [item.token for item in chosen[0]]


def drawn(params: SamplingParams, depth: int) -> list[list[int]]:
    """Outputs of many steps, each with a draft of its own from ``PROPOSAL``."""
    seq = Sequence([3], params)
    seq.generator = torch.Generator().manual_seed(11)
    proposals = torch.stack([distribution(row, params) for row in PROPOSAL])[:depth]
    out = []
    for _ in range(TRIALS):
        draft = Draft([draw(row, seq) for row in proposals], proposals)
        out.append([item.token for item in sample(TARGET[: depth + 1].clone(), [seq], [draft], EOS)[0]])
    return out


def assert_distributed(values: list[int], expected: Tensor) -> None:
    counts = Counter(values)
    kept = [token for token in range(VOCAB) if expected[token] > 0]
    assert set(counts) <= set(kept)
    wanted = expected[kept].double()
    assert stats.chisquare([counts[t] for t in kept], (wanted / wanted.sum() * len(values)).numpy()).pvalue > 0.01


SETTINGS = [
    SamplingParams(temperature=1.0), SamplingParams(temperature=0.6), SamplingParams(temperature=1.3, top_p=0.8),
    SamplingParams(temperature=1.0, top_k=3),
]  # fmt: skip


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_every_token_behind_a_draft_is_distributed_as_the_models_own(params: SamplingParams) -> None:
    """Each row's target does not depend on the tokens before it, so all tokens at one place can be counted together."""
    outputs = drawn(params, depth=2)
    assert {len(out) for out in outputs} == {1, 2, 3}
    for place in range(3):
        assert_distributed([out[place] for out in outputs if len(out) > place], distribution(TARGET[place], params))


def test_the_test_above_would_see_accepted_drafts_that_should_not_be() -> None:
    params = SETTINGS[0]
    seq = Sequence([3], params)
    proposal = distribution(PROPOSAL[0], params)
    with pytest.raises(AssertionError):
        assert_distributed([draw(proposal, seq) for _ in range(TRIALS)], distribution(TARGET[0], params))


def test_a_draft_that_is_not_drawn_leaves_the_distribution_as_it_is() -> None:
    params = SamplingParams(temperature=1.0)
    seq = Sequence([3], params)
    seq.generator = torch.Generator().manual_seed(4)
    outputs = [sample(TARGET[:2].clone(), [seq], [Draft([2])], EOS)[0] for _ in range(TRIALS)]
    assert_distributed([out[0].token for out in outputs], distribution(TARGET[0], params))
    assert all((len(out) == 2) == (out[0].token == 2) for out in outputs)
    accepted = [out[1].token for out in outputs if len(out) == 2]
    assert_distributed(accepted, distribution(TARGET[1], params))


def test_a_draft_from_the_models_own_distribution_is_always_accepted() -> None:
    params = SamplingParams(temperature=0.9, top_p=0.9)
    own = torch.stack([distribution(row, params) for row in TARGET[:2]])
    seq = sequence(params)
    for _ in range(200):
        draft = Draft([draw(row, seq) for row in own], own)
        assert tokens(params, draft)[:2] == draft.tokens


def test_greedy_takes_the_matching_part_of_a_draft_and_the_models_next_token() -> None:
    best = TARGET.argmax(-1).tolist()
    other = [(token + 1) % VOCAB for token in best]
    assert tokens(GREEDY, Draft()) == best[:1]
    assert tokens(GREEDY, Draft(best[:2])) == best
    assert tokens(GREEDY, Draft([best[0], other[1]])) == best[:2]
    assert tokens(GREEDY, Draft([other[0], best[1]])) == best[:1]


def test_sequences_of_one_batch_have_drafts_of_their_own_length() -> None:
    best = TARGET.argmax(-1).tolist()
    logits = torch.cat((TARGET[:1], TARGET, TARGET[:2]))
    drafts = [Draft(), Draft(best[:2]), Draft([(best[0] + 1) % VOCAB])]
    chosen = sample(logits, [sequence(GREEDY) for _ in drafts], drafts, EOS)
    assert [[item.token for item in items] for items in chosen] == [best[:1], best, best[:1]]


def test_the_end_is_forbidden_only_to_the_rows_before_min_tokens() -> None:
    rows = torch.zeros(3, VOCAB)
    rows[:, EOS], rows[:, 4] = 9.0, 8.0
    params = SamplingParams(temperature=0.0, min_tokens=4)
    (chosen,) = sample(rows, [sequence(params, outputs=2)], [Draft([4, 4])], EOS)
    assert [item.token for item in chosen] == [4, 4, EOS]


def test_log_probabilities_are_the_models_at_each_place() -> None:
    best = TARGET.argmax(-1).tolist()
    params = SamplingParams(temperature=0.0, logprobs=2)
    (chosen,) = sample(TARGET.clone(), [sequence(params)], [Draft(best[:2])], EOS)
    for row, item in zip(TARGET, chosen, strict=True):
        assert item.logprob is not None
        assert item.logprob.logprob == pytest.approx(float(row.log_softmax(-1).max()))
        assert [token for token, _ in item.logprob.top] == row.topk(2).indices.tolist()


def test_truncation_keeps_the_most_likely_tokens_and_sums_to_one() -> None:
    full = distribution(TARGET[0], SamplingParams(temperature=1.0))
    order = full.argsort(descending=True)
    for params, count in (
        (SamplingParams(temperature=1.0, top_k=2), 2),
        (SamplingParams(temperature=1.0, top_p=0.01), 1),
    ):
        kept = distribution(TARGET[0], params)
        assert sorted(kept.nonzero().flatten().tolist()) == sorted(order[:count].tolist())
        assert float(kept.sum()) == pytest.approx(1)
        assert kept[order[0]] / kept[order[count - 1]] == pytest.approx(float(full[order[0]] / full[order[count - 1]]))
