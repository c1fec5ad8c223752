"""The comparison of two backends: it counts what differs and says how near the tie was."""

from __future__ import annotations

import os

import pytest
import torch

from ds4bench.embedded import parity
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.parity import (
    Answer,
    compare,
    differences,
    generate,
    main,
    random_prompts,
    summary,
    trained_prompts,
)
from ds4bench.embedded.runner import ModelRunner, StepInput

MODEL = ModelConfig(
    name="test", vocab_size=128, dim=128, compress_ratios=(0, 4, 128), num_experts=4, index_heads=4, index_topk=16,
    max_position=2048,
)  # fmt: skip


def answer(*rows: list[float]) -> Answer:
    logits = [torch.tensor(row) for row in rows]
    return Answer([int(row.argmax()) for row in logits], logits)


def test_the_first_difference_is_reported_with_its_margins() -> None:
    first = answer([3.0, 1.0, 0.0], [1.0, 2.0, 1.9], [0.0, 9.0, 0.0])
    second = answer([3.0, 1.0, 0.0], [1.0, 1.9, 2.1], [0.0, 8.0, 0.0])
    item = compare(first, second)
    assert item.first is not None
    assert (item.first.output, item.first.tokens) == (1, (1, 2))
    assert item.first.margins == pytest.approx((0.1, 0.2), abs=1e-6)
    assert (item.num_equal, item.num_outputs, item.max_difference) == (2, 3, 1.0)
    assert summary([item, compare(first, first)]).startswith(
        "1 of 2 prompts gave the same greedy tokens; 5 of 6 tokens are equal;"
    )
    text = "prompt 1 (3 tokens): output 1 is 1 or 2, top-2 margin 0.1 (reference) and 0.2 (triton)"
    assert differences([[5], [5, 6, 7]], [compare(first, first), item]) == text


def test_logits_are_compared_where_tokens_agree() -> None:
    item = compare(answer([3.0, 1.0], [0.0, 2.0]), answer([3.0, 1.5], [0.0, 2.0]))
    assert item.first is None
    assert item.max_difference == pytest.approx(0.5)
    assert item.cosines[0] < item.cosines[1] == pytest.approx(1)


def test_given_tokens_are_read_instead_of_the_models_own() -> None:
    runner = ModelRunner(MODEL, EngineConfig(block_size=128, num_blocks=8, dtype="float64", seed=5))
    (own,) = generate(runner, [[5, 6, 7]], 3)
    (same,) = generate(runner, [[5, 6, 7]], 3, [own])
    assert same.tokens == own.tokens
    other = Answer([own.tokens[0] ^ 1, 9, 9])
    (led,) = generate(runner, [[5, 6, 7]], 3, [other])
    expected = runner.step([StepInput([5, 6, 7, *other.tokens[:2]], 0, [0], True)])
    assert led.tokens[0] == own.tokens[0]
    assert led.tokens[2] == int(expected.argmax())
    assert not torch.equal(led.logits[1], own.logits[1])


def test_prompts_have_the_promised_lengths_and_share_beginnings() -> None:
    prompts = random_prompts(50, 600, 2048, 3)
    assert prompts == random_prompts(50, 600, 2048, 3)
    assert len(prompts) == 50
    assert all(1 <= len(prompt) <= 600 for prompt in prompts)
    assert any(a[:256] == b[:256] for i, a in enumerate(prompts) for b in prompts[:i] if len(b) > 256)
    assert all(len(prompt) == 1 for prompt in random_prompts(6, 1, 2048, 3))


def test_scheduled_prompts_get_the_tokens_that_each_gets_alone() -> None:
    """FP64 and the fused model: rounding must not decide."""
    config = EngineConfig(
        block_size=128, num_blocks=32, max_num_seqs=4, max_num_batched_tokens=100, dtype="float64", seed=5
    )
    runner = ModelRunner(MODEL, config)
    prompts = random_prompts(6, 300, MODEL.vocab_size, 4)
    answers = generate(runner, prompts, 3)
    assert sum(item.num_cached for item in answers) > 0
    for prompt, item in zip(prompts, answers, strict=True):
        fresh = ModelRunner(MODEL, config)
        known = list(prompt)
        tokens = [int(fresh.step([StepInput(known, 0, [0, 1, 2], True)]).argmax())]
        for _ in range(2):
            known.append(tokens[-1])
            tokens.append(int(fresh.step([StepInput(known, 0, [0, 1, 2], True)]).argmax()))
        assert item.tokens == tokens
        assert [int(row.argmax()) for row in item.logits] == tokens


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="too slow in the interpreter")
def test_on_a_cpu_the_reference_is_compared_with_itself_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("DS4_KERNELS")
    assert main(["--device", "cpu", "--prompts", "2", "--tokens", "2", "--max-length", "9"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n  0 of ") == 3
    assert "triton: 2 of 2 prompts gave the same greedy tokens; 4 of 4 tokens are equal" in out
    assert "largest difference 0\n" in out
    control = next(line for line in out.splitlines() if line.startswith("control: ") and "prompts gave" in line)
    assert not control.endswith("largest difference 0")
    assert os.environ.get("DS4_KERNELS") == before


def test_a_differing_backend_gives_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stand_in(
        runner: ModelRunner, prompts: list[list[int]], num_tokens: int, given: list[Answer] | None = None
    ) -> list[Answer]:
        triton = os.environ["DS4_KERNELS"] == "triton"
        return [answer([2.0, 1.0] if triton and i == 1 else [1.0, 2.0]) for i in range(len(prompts))]

    monkeypatch.setattr(parity, "generate", stand_in)
    assert main(["--device", "cpu", "--prompts", "3", "--tokens", "1", "--no-control"]) == 1
    out = capsys.readouterr().out
    assert "triton: 2 of 3 prompts gave the same greedy tokens" in out
    assert "prompt 1 (" in out
    assert "control" not in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message of a machine without a GPU")
def test_without_a_gpu_it_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--prompts", "0"])
    assert caught.value.code == 2


def test_prompts_of_the_trained_kind_are_reproducible_and_short_enough() -> None:
    prompts = trained_prompts(6, 300, 3)
    assert prompts == trained_prompts(6, 300, 3)
    assert len(prompts) == 6
    assert all(10 < len(prompt) <= 300 for prompt in prompts)
    assert prompts != trained_prompts(6, 300, 4)
