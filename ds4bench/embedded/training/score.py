"""Score a serve over HTTP with the held-out items: ``python -m ds4bench.embedded.training.score --tools --far``.

--tools           the tool battery, through /v1/chat/completions: share of the points
--near, --far     gsm8k-nano, gsm8k-nano-far, five-shot through /v1/completions: strict-match
--limit N         so many items of each, the battery's evenly over its categories
--url URL         a serve that runs; without it one with the trained weights is started, which drafts two tokens a step
--json FILE       every score, and every item of the battery with its points

With a serve that speculates each part also says ``mtp``, the tokens of a step over its replies. Replies are greedy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ds4bench.embedded.training.data import battery
from ds4bench.embedded.training.data.tools import Turn
from ds4bench.embedded.training.evaluate import ReadReply, five_shot, points, strict_match

_PROMPTS = Path(__file__).parents[3] / "prompts"
_START_S = 120.0
_COUNTERS = ("vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_total")

Json = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Score and print; 2 where there is no serve to score."""
    options = _parser().parse_args(argv)
    parts = [name for name in ("tools", "near", "far") if getattr(options, name)]
    if not parts:
        print("nothing to score: choose --tools, --near or --far", file=sys.stderr)  # noqa: T201
        return 2
    try:
        with _client(options) as client:
            scores = {name: _part(client, name, options) for name in parts}
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        print(f"cannot score {options.url or 'the embedded serve'}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for name, score in scores.items():
        print(name, " ".join(f"{key}={value}" for key, value in score.items() if key != "items"))  # noqa: T201
    if options.json is not None:
        options.json.write_text(json.dumps(scores, indent=1) + "\n")
    return 0


def tool_battery(client: httpx.Client, items: Sequence[Json]) -> Json:
    """Share of the points, in all and by category. Every turn is asked with the right turns before it."""
    scored = [_scored(client, item) for item in items]
    categories = sorted({item["category"] for item in scored})
    shares = {name: _share([i["points"] for i in scored if i["category"] == name]) for name in categories}
    return {"score": _share([item["points"] for item in scored]), **shares, "items": scored}


def problems(client: httpx.Client, folder: Path, limit: int) -> Json:
    """Strict-match over the first items of a data set in GSM8K's form."""
    items = five_shot(folder, limit)
    right = 0
    for prompt, answer in items:
        body = {"prompt": prompt, "max_tokens": 256, "temperature": 0, "stop": ["Question:"]}
        right += strict_match(_post(client, "/v1/completions", body)["choices"][0]["text"], answer)
    return {"score": right / len(items), "count": len(items)}


def request(item: Json, turns: Sequence[Turn]) -> Json:
    """The chat request that asks for the turn behind ``turns``. Effort ``low`` is thinking without a preamble."""
    messages: list[Json] = [{"role": "system", "content": item["system"]}, {"role": "user", "content": item["request"]}]
    for number, turn in enumerate(turns):
        calls = [
            {"id": f"{number}-{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for i, (name, arguments) in enumerate(turn.calls)
        ]
        messages.append({"role": "assistant", "content": turn.text, "reasoning": turn.thought, "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(calls, turn.results, strict=True)
        ]
    return {
        "messages": messages, "tools": [{"type": "function", "function": tool} for tool in item["tools"]],
        "temperature": 0, "max_tokens": 400, "chat_template_kwargs": {"thinking": item["thinking"]},
        "reasoning_effort": "low",
    }  # fmt: skip


def _part(client: httpx.Client, name: str, options: argparse.Namespace) -> Json:
    before = _drafts(client)
    if name == "tools":
        items = json.loads((options.prompts / "tool-battery" / "battery.json").read_text())
        score = tool_battery(client, _evenly(items, options.limit))
    else:
        folder = options.prompts / {"near": "gsm8k-nano", "far": "gsm8k-nano-far"}[name]
        score = problems(client, folder, options.limit or 1_000_000)
    drafts, accepted = (after - then for after, then in zip(_drafts(client), before, strict=True))
    return {**score, "mtp": 1 + accepted / drafts} if drafts else score


def _scored(client: httpx.Client, item: Json) -> Json:
    turns = battery.read_turns(item)
    bodies = [request(item, turns[:i]) for i in range(len(turns))]
    read = [_read(_post(client, "/v1/chat/completions", body)["choices"][0]["message"]) for body in bodies]
    replies = [{"content": content, "calls": calls} for content, calls in read]
    return {"id": item["id"], "category": item["category"], "points": points(turns, read), "replies": replies}


def _read(message: Json) -> ReadReply:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return message.get("content") or "", [(f["name"], _arguments(f["arguments"])) for f in functions]


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _post(client: httpx.Client, path: str, body: Json) -> Json:
    answer = client.post(path, json=body)
    if answer.is_error:
        raise RuntimeError(f"{path} answers {answer.status_code}: {answer.text[:300]}")
    return dict(answer.json())


def _drafts(client: httpx.Client) -> tuple[float, float]:
    """(drafts, accepted tokens) so far; zeros where the serve does not say."""
    totals = dict.fromkeys(_COUNTERS, 0.0)
    for line in client.get("/metrics").text.splitlines():
        name = line.partition("{")[0]
        if name in totals:
            totals[name] += float(line.rpartition(" ")[2])
    return totals[_COUNTERS[0]], totals[_COUNTERS[1]]


def _evenly(items: list[Json], limit: int | None) -> list[Json]:
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _share(made: Sequence[int]) -> float:
    return sum(made) / (2 * len(made))


@contextmanager
def _client(options: argparse.Namespace) -> Iterator[httpx.Client]:
    if options.url is not None:
        with httpx.Client(base_url=options.url.rstrip("/").removesuffix("/v1"), timeout=300) as client:
            yield client
        return
    with _serve(options.weights) as url, httpx.Client(base_url=url, timeout=300) as client:
        yield client


@contextmanager
def _serve(weights: str) -> Iterator[str]:
    """URL of an embedded serve of its own; raises RuntimeError with its words if it does not start."""
    with tempfile.TemporaryDirectory() as folder:
        port_file, log = Path(folder) / "port", Path(folder) / "log"
        command = [sys.executable, "-m", "ds4bench.embedded", "--port", "0", "--port-file", str(port_file)]
        command += ["--weights", weights, "--num-speculative-tokens", "2", "--die-with-parent"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + _START_S
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the serve did not start: {log.read_text()[-500:]}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port_file.read_text().strip()}"
        finally:
            process.terminate()
            process.wait(20)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ds4bench.embedded.training.score", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--tools", action="store_true")
    parser.add_argument("--near", action="store_true")
    parser.add_argument("--far", action="store_true")
    parser.add_argument("--limit", type=_positive, metavar="N")
    parser.add_argument("--url", help="a serve that runs, for example http://127.0.0.1:8000")
    parser.add_argument("--weights", default="nano", help="of the serve that is started: nano (default), random or DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--prompts", type=Path, default=_PROMPTS, help="folder of the held-out items")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
