"""The loop at a tiny scale: losses fall, a resumed run is the uninterrupted one, decoding ignores its guess."""

import pytest
import torch

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.training import plan as course
from ds4bench.embedded.training.greedy import Reply, complete
from ds4bench.embedded.training.plan import Plan
from ds4bench.embedded.training.train import Trainer

TOY = ModelConfig(
    vocab_size=64, dim=128, num_heads=1, o_groups=1, compress_ratios=(0, 4), num_hash_layers=1, index_heads=2, index_topk=8,
    num_experts=4, max_position=512,
)  # fmt: skip


def _batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences that repeat eight tokens: something to learn at once."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(10, 64, (1, 8), generator=generator).repeat(2, 16), torch.ones(2, 128)


def _trainer(steps: int = 12) -> Trainer:
    return Trainer(TOY, Plan(steps=steps, rate=3e-3), "cpu")


@pytest.mark.slow
def test_losses_fall() -> None:
    trainer = _trainer(200)
    losses = [trainer.train_step(*_batch(0)) for _ in range(12)]
    assert losses[-1].main < 0.7 * losses[0].main
    assert losses[-1].mtp < 0.8 * losses[0].mtp
    assert losses[-1].index.isfinite()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path) -> None:
    whole, first = _trainer(), _trainer()
    for step in range(12):  # reaches the quantised and the sparse part of the plan
        whole.train_step(*_batch(step))
    for step in range(7):
        first.train_step(*_batch(step))
    torch.save(first.state(), tmp_path / "state.pt")
    second = _trainer()
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(7, 12):
        second.train_step(*_batch(step))
    assert whole.model.precision.quantise and whole.model.precision.sparse
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_keys_go_on_where_the_state_is() -> None:
    one, two = _trainer(100), _trainer(100)
    keys = one.keys()
    wanted = [next(keys) for _ in range(30)][20:]
    two.step = 20
    keys = two.keys()
    assert [next(keys) for _ in range(10)] == wanted


def test_rate_rises_stays_and_falls() -> None:
    factors = [course.rate_factor(p / 100) for p in range(101)]
    assert factors[0] < 0.1 and factors[10] == factors[50] == 1.0
    assert factors[60:] == sorted(factors[60:], reverse=True) and factors[-1] == 0.02


def test_a_guess_changes_nothing_but_the_rounds() -> None:
    model = _trainer().model.eval()
    prompts = [[11, 12, 13], [20, 21, 22, 23, 24]]

    def decoded(guesses: list[list[int]]) -> list[list[int]]:
        replies = [Reply(list(p), list(g)) for p, g in zip(prompts, guesses, strict=True)]
        complete(model, replies, lambda tokens: False, longest=6, budget=256)
        return [reply.tokens for reply in replies]

    plain = decoded([[], []])
    assert decoded(plain) == plain
    assert decoded([[1, 2, 3, 4], [*plain[1][:2], 9, 9]]) == plain
