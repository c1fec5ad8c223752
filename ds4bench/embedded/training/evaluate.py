"""Scores of a checkpoint on what it was not trained on: gsm8k-nano, three codes, the tool battery, MTP acceptance."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ds4bench.embedded.chat.dsml import DsmlParser, ToolCallDelta
from ds4bench.embedded.chat.special_tokens import END_THINK, EOS
from ds4bench.embedded.tokenizer import Tokenizer
from ds4bench.embedded.training.data import battery, chat
from ds4bench.embedded.training.data.tools import Turn
from ds4bench.embedded.training.greedy import Reply, complete
from ds4bench.embedded.training.model import TrainingModel

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")  # lm-eval's strict-match of gsm8k
_SHOTS = 5
_SHARES = (0.1, 0.5, 0.9)

ReadReply = tuple[str, list[tuple[str, Any]]]
"""Content of a reply, and its calls: name and arguments, None where they are no JSON."""


@dataclass(frozen=True)
class Suite:
    """What to score with: folders of the held-out items, recall lengths in tokens, how many items of each."""

    prompts: Path
    lengths: tuple[int, ...] = (2048, 8192, 32768)
    recall_items: int = 16
    problems: int = 200
    battery_items: int = 60
    budget: int = 65_536


def evaluate(model: TrainingModel, suite: Suite) -> dict[str, Any]:
    """All scores, each between 0 and 1 except ``mtp`` (tokens a step at depth 2)."""
    was_training = model.training
    model.eval()
    tokenizer = Tokenizer()
    problems, replies = gsm8k(model, tokenizer, suite, "gsm8k-nano")
    far, _ = gsm8k(model, tokenizer, suite, "gsm8k-nano-far")
    scores: dict[str, Any] = {"gsm8k_nano": problems, "gsm8k_far": far}
    for length in suite.lengths:
        scores[f"recall_{length}"] = recall(model, tokenizer, suite, length)
    scores |= tools(model, tokenizer, suite)
    scores |= acceptance(model, replies)
    model.train(was_training)
    return scores


def gsm8k(model: TrainingModel, tokenizer: Tokenizer, suite: Suite, name: str) -> tuple[float, list[Reply]]:
    """Strict-match of five-shot completions of the data set ``name``, and the replies."""
    items = five_shot(suite.prompts / name, suite.problems)
    replies = [_reply(tokenizer, prompt, f" {answer}\n\n") for prompt, answer in items]

    def ended(tokens: list[int]) -> bool:
        return tokens[-1] == tokenizer.eos_id or "Question:" in tokenizer.decode(tokens[-8:])

    complete(model, replies, ended, longest=256, budget=suite.budget, rounds=100)
    texts = [tokenizer.decode(reply.tokens) for reply in replies]
    return sum(strict_match(text, answer) for text, (_, answer) in zip(texts, items, strict=True)) / len(items), replies


def five_shot(folder: Path, limit: int) -> list[tuple[str, str]]:
    """(prompt, worked answer) of the first ``limit`` items of a folder, as lm-eval's gsm8k task forms them."""
    pool, items = _lines(folder / "train.jsonl"), _lines(folder / "test.jsonl")[:limit]
    rng = random.Random("five shots")  # noqa: S311 - test data
    prompts = []
    for item in items:
        shots = "".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in rng.sample(pool, _SHOTS))
        prompts.append((f"{shots}Question: {item['question']}\nAnswer:", str(item["answer"])))
    return prompts


def strict_match(text: str, answer: str) -> bool:
    """Whether the first number behind ``####`` is the answer's, by lm-eval's strict filter."""
    found = _STRICT.search(text)
    return found is not None and found[1].rstrip(".") == answer.rpartition("#### ")[2]


def recall(model: TrainingModel, tokenizer: Tokenizer, suite: Suite, length: int) -> float:
    """Share of the codes that greedy replies name, with prompts of the long-context workload's own text."""
    import yaml

    filler = yaml.safe_load((suite.prompts / "long-context" / "filler.yaml").read_text())
    rng = random.Random(f"recall {length}")  # noqa: S311 - test data
    codes, replies = [], []
    for _ in range(suite.recall_items):
        codes.append([str(code) for code in rng.sample(range(100_000, 1_000_000), 3)])
        text = _journal(rng, filler, codes[-1], lambda body: len(tokenizer.encode(body)) < length - 120)
        prompt = chat.opening(text, thinking=False, first=True)
        replies.append(_reply(tokenizer, prompt, ", ".join(codes[-1]) + EOS))
    complete(model, replies, lambda tokens: tokens[-1] == tokenizer.eos_id, longest=64, budget=suite.budget, rounds=24)
    found = [set(re.findall(r"\d+", tokenizer.decode(reply.tokens))) for reply in replies]
    return sum(code in numbers for wanted, numbers in zip(codes, found, strict=True) for code in wanted) / (
        3 * len(codes)
    )


def tools(model: TrainingModel, tokenizer: Tokenizer, suite: Suite) -> dict[str, float]:
    """Share of the battery's points, in all and by category. Every turn is asked with the right turns before it."""
    items = json.loads((suite.prompts / "tool-battery" / "battery.json").read_text())
    items = items[:: max(1, len(items) // suite.battery_items)]
    replies = [[_turn_reply(tokenizer, item, i) for i in range(len(item["turns"]))] for item in items]
    flat = [reply for turns in replies for reply in turns]
    complete(model, flat, lambda tokens: tokens[-1] == tokenizer.eos_id, longest=320, budget=suite.budget, rounds=60)
    points: dict[str, list[int]] = {}
    for item, turns in zip(items, replies, strict=True):
        texts = [tokenizer.decode(reply.tokens) for reply in turns]
        points.setdefault(item["category"], []).append(score(battery.read_turns(item), texts))
    every = [p for values in points.values() for p in values]
    shares = {f"tools_{category}": sum(values) / (2 * len(values)) for category, values in sorted(points.items())}
    return {"tools": sum(every) / (2 * len(every)), **shares}


def score(turns: Sequence[Turn], texts: Sequence[str]) -> int:
    """2 points when every turn is right; 1 when the first calls name the right tools; else 0."""
    return points(turns, [_read(text) for text in texts])


def points(turns: Sequence[Turn], read: Sequence[ReadReply]) -> int:
    """The same of replies that are read already, each (content, calls)."""
    right = [_right(turn, *got) for turn, got in zip(turns, read, strict=True)]
    if all(right):
        return 2
    wanted = [name for name, _ in turns[0].calls]
    return int(bool(wanted) and [name for name, _ in read[0][1]] == wanted)


def acceptance(model: TrainingModel, replies: Sequence[Reply]) -> dict[str, float]:
    """Tokens a step with two drafted ones, over the model's own greedy replies."""
    first = second = total = 0
    device = model.head.weight.device
    for reply in replies:
        ids = torch.tensor([reply.prompt + reply.tokens], device=device)
        begin, end = len(reply.prompt) - 1, ids.shape[1] - 3
        one, two = (draft[0] for draft in model.drafts(ids))
        hit = one[begin:end] == ids[0, begin + 2 : end + 2]
        again = hit & (two[begin:end] == ids[0, begin + 3 : end + 3])
        first, second, total = first + int(hit.sum()), second + int(again.sum()), total + hit.numel()
    return {"mtp": 1 + (first + second) / max(1, total), "mtp_first": first / max(1, total)}


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Scores side by side."""
    names = list(next(iter(columns.values())))
    head = f"{'':<14}" + "".join(f"{name:>12}" for name in columns)
    return "\n".join([head, *(f"{n:<14}" + "".join(f"{c[n]:>12.3f}" for c in columns.values()) for n in names)])


def _reply(tokenizer: Tokenizer, prompt: str, expected: str) -> Reply:
    return Reply(tokenizer.encode(prompt), tokenizer.encode(expected))


def _turn_reply(tokenizer: Tokenizer, item: dict[str, Any], index: int) -> Reply:
    thinking, turns = item["thinking"], battery.read_turns(item)
    prompt = chat.head(item["system"], item["tools"]) + chat.user(item["request"], thinking=thinking)
    for turn in turns[:index]:
        prompt += turn.reply(thinking=thinking) + EOS + chat.tool_results(turn.results, thinking=thinking)
    return _reply(tokenizer, prompt, turns[index].reply(thinking=thinking) + EOS)


def _read(text: str) -> ReadReply:
    parser = DsmlParser()
    events = [*parser.feed(text.rpartition(END_THINK)[2].removesuffix(EOS)), *parser.finish()]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            names[event.index] = event.name or names.get(event.index, "")
            arguments[event.index] = arguments.get(event.index, "") + event.arguments
    content = "".join(event for event in events if isinstance(event, str))
    return content, [(names[i], _loaded(arguments.get(i, ""))) for i in sorted(names)]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return None


def _right(turn: Turn, content: str, calls: Sequence[tuple[str, Any]]) -> bool:
    if list(calls) != [(name, arguments) for name, arguments in turn.calls]:
        return False
    return all(part in content for part in turn.must_have)


def _journal(rng: random.Random, filler: dict[str, Any], codes: list[str], fits: Callable[[str], bool]) -> str:
    """A prompt of the workload's form, as long as ``fits`` allows within a few sentences."""
    made: list[str] = []
    low, high = 1, 4096

    def composed(count: int) -> str:
        while len(made) < count:
            words = {name: rng.choice(options) for name, options in filler["words"].items()}
            made.append(rng.choice(filler["templates"]).format_map(words))
        body = made[:count]
        for share, template, code in reversed(list(zip(_SHARES, filler["code_sentences"], codes, strict=True))):
            body.insert(int(count * share), template.format(code=code))
        salt = hashlib.sha256(codes[0].encode()).hexdigest()[:16]
        return f"{salt}\n{filler['introduction']}\n\n{' '.join(body)}\n\n{filler['question']}"

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(composed(middle)) else (low, middle)
    return composed(low)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
