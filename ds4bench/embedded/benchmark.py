"""Speed of the engine without server or client: ``python -m ds4bench.embedded.benchmark``.

Prefill of one prompt in the serve's own chunks, greedy decode behind it, decode of several sequences behind the shortest
of the prompts, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence

import torch

from ds4bench.embedded import stored
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.runner import ModelRunner, StepInput


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m ds4bench.embedded.benchmark", description=__doc__)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[2048, 8192], metavar="N")
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="the median round is reported")
    parser.add_argument("--concurrency", type=int, default=8, help="sequences of the decode that shares its steps")
    parser.add_argument("--weights", choices=["nano", "random"], default="nano")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    config = EngineConfig(num_threads=options.threads)
    trained = options.weights == "nano"
    model = stored.read_config(stored.NANO) if trained else ModelConfig()
    runner = ModelRunner(model, config, stored.read(stored.NANO) if trained else None)
    measure(runner, config, 1024, 4)  # the first steps build tables and warm caches
    rows: list[dict[str, float]] = []
    for tokens in options.prompt_tokens:
        rounds = [measure(runner, config, tokens, options.output_tokens) for _ in range(options.rounds)]
        prefill, decode = (sorted(values)[len(values) // 2] for values in zip(*rounds, strict=True))
        rows.append({"prompt_tokens": tokens, "prefill_tok_s": round(prefill, 1), "decode_tok_s": round(decode, 1)})
    shortest = min(options.prompt_tokens)
    shared = measure_shared(runner, config, shortest, options.output_tokens, options.concurrency)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "model": model.name, "threads": torch.get_num_threads(), "peak_memory_gib": round(peak, 2), "rows": rows,
        "shared_decode": {"prompt_tokens": shortest, "concurrency": options.concurrency, "tok_s": round(shared, 1)},
    }  # fmt: skip
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return 0
    for row in rows:
        print(  # noqa: T201
            f"{row['prompt_tokens']:>7,} tokens: prefill {row['prefill_tok_s']:>8,.1f} tok/s, "
            f"decode {row['decode_tok_s']:>6.1f} tok/s"
        )
    print(f"{shortest:>7,} tokens, c = {options.concurrency}: decode {shared:.1f} tok/s in total")  # noqa: T201
    print(f"{model.name}, {result['threads']} threads, peak memory {result['peak_memory_gib']} GiB")  # noqa: T201
    return 0


def measure(runner: ModelRunner, config: EngineConfig, prompt_tokens: int, output_tokens: int) -> tuple[float, float]:
    """(prefill tokens a second, decode tokens a second) of one sequence."""
    blocks = _blocks(config, prompt_tokens + output_tokens)
    started = time.perf_counter()
    token = _prefill(runner, config, prompt_tokens, blocks)
    prefill_s = time.perf_counter() - started
    started = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + output_tokens):
        token = int(runner.step([StepInput([token], position, blocks, True)]).argmax())
    return prompt_tokens / prefill_s, output_tokens / (time.perf_counter() - started)


def measure_shared(
    runner: ModelRunner, config: EngineConfig, prompt_tokens: int, output_tokens: int, concurrency: int
) -> float:
    """Decode tokens a second of ``concurrency`` sequences in the same steps, all together."""
    each = len(_blocks(config, prompt_tokens + output_tokens))
    tables = [list(range(i * each, (i + 1) * each)) for i in range(concurrency)]
    tokens = [_prefill(runner, config, prompt_tokens, blocks) for blocks in tables]
    started = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + output_tokens):
        steps = [StepInput([token], position, blocks, True) for token, blocks in zip(tokens, tables, strict=True)]
        tokens = runner.step(steps).argmax(-1).tolist()
    return concurrency * output_tokens / (time.perf_counter() - started)


def _blocks(config: EngineConfig, tokens: int) -> list[int]:
    return list(range(-(-tokens // config.block_size)))


def _prefill(runner: ModelRunner, config: EngineConfig, tokens: int, blocks: list[int]) -> int:
    """Feed random tokens in the serve's chunks; the likeliest next token."""
    prompt = torch.randint(20, runner.model_config.vocab_size, (tokens,)).tolist()
    chunk = config.max_num_batched_tokens
    for begin in range(0, tokens, chunk):
        end = min(tokens, begin + chunk)
        logits = runner.step([StepInput(prompt[begin:end], begin, blocks, end == tokens)])
    return int(logits.argmax())


if __name__ == "__main__":
    sys.exit(main())
