"""Speed of the engine without server or client: ``python -m ds4bench.embedded.benchmark``.

Prefill of one prompt in the serve's own chunks, greedy decode behind it, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence

import torch

from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.runner import ModelRunner, StepInput


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m ds4bench.embedded.benchmark", description=__doc__)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[2048, 8192], metavar="N")
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="the median round is reported")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    config = EngineConfig(num_threads=options.threads)
    runner = ModelRunner(ModelConfig(), config)
    measure(runner, config, 1024, 4)  # the first steps build tables and warm caches
    rows = []
    for tokens in options.prompt_tokens:
        rounds = [measure(runner, config, tokens, options.output_tokens) for _ in range(options.rounds)]
        prefill, decode = (sorted(values)[len(values) // 2] for values in zip(*rounds, strict=True))
        rows.append({"prompt_tokens": tokens, "prefill_tok_s": round(prefill, 1), "decode_tok_s": round(decode, 1)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"threads": torch.get_num_threads(), "peak_memory_gib": round(peak, 2), "rows": rows}
    if options.json:
        print(json.dumps(result))  # noqa: T201
        return 0
    for row in rows:
        print(  # noqa: T201
            f"{row['prompt_tokens']:>7,} tokens: prefill {row['prefill_tok_s']:>8,.1f} tok/s, "
            f"decode {row['decode_tok_s']:>6.1f} tok/s"
        )
    print(f"{result['threads']} threads, peak memory {result['peak_memory_gib']} GiB")  # noqa: T201
    return 0


def measure(runner: ModelRunner, config: EngineConfig, prompt_tokens: int, output_tokens: int) -> tuple[float, float]:
    """(prefill tokens a second, decode tokens a second) of one sequence."""
    prompt = torch.randint(20, runner.model_config.vocab_size, (prompt_tokens,)).tolist()
    blocks = list(range(-(-(prompt_tokens + output_tokens) // config.block_size)))
    chunk = config.max_num_batched_tokens
    started = time.perf_counter()
    for begin in range(0, prompt_tokens, chunk):
        end = min(prompt_tokens, begin + chunk)
        logits = runner.step([StepInput(prompt[begin:end], begin, blocks, end == prompt_tokens)])
    prefill_s = time.perf_counter() - started
    started = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + output_tokens):
        logits = runner.step([StepInput([int(logits.argmax())], position, blocks, True)])
    return prompt_tokens / prefill_s, output_tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
