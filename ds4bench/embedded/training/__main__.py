"""Train, export and score ``ds4-nano``: ``python -m ds4bench.embedded.training --out DIR``.

--minutes 9.5                       a whole run, on the GPU if there is one
--minutes 9.5 --stop-after 5        the first five minutes of it; the state lies in --state
--minutes 9.5 --resume              the rest, from the state
--minutes 9.5 --start-from DIR      the rest, where the state is lost: from DIR and DIR/bf16, optimisers anew
--evaluate-only DIR                scores of an exported checkpoint (``training.score``: through a serve)
--write-data                       the held-out items, under prompts/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ds4bench.embedded import stored
from ds4bench.embedded.config import NANO
from ds4bench.embedded.training import export
from ds4bench.embedded.training.checkpoint import load
from ds4bench.embedded.training.data import arithmetic, battery
from ds4bench.embedded.training.evaluate import Suite, evaluate, table
from ds4bench.embedded.training.model import TrainingModel
from ds4bench.embedded.training.plan import Plan
from ds4bench.embedded.training.train import Trainer, run

_PROMPTS = Path(__file__).parents[3] / "prompts"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says."""
    options = _parser().parse_args(argv)
    if options.write_data:
        arithmetic.write(options.prompts)
        battery.write(options.prompts / "tool-battery")
        return 0
    suite = Suite(options.prompts)
    if options.evaluate_only is not None:
        model = loaded(options.evaluate_only, options.device)
        scores = {"quantised": _quantised_scores(model, suite)}
        print(table(scores))  # noqa: T201
        return 0
    return _train(options, suite)


def loaded(folder: Path, device: str) -> TrainingModel:
    """The training model with an exported checkpoint."""
    model = TrainingModel(stored.read_config(folder))
    load(model, stored.read(folder))
    if device == "cpu":
        model.precision.products = torch.float32
    return model.to(device)


def _train(options: argparse.Namespace, suite: Suite) -> int:
    plan = Plan(
        seed=options.seed, minutes=options.minutes, steps=options.steps, batch_tokens=options.batch_tokens,
        rate=options.rate, max_length=options.max_length,
    )  # fmt: skip
    trainer = Trainer(NANO, plan, options.device, compiled=options.compile and options.device != "cpu")
    if options.resume:
        trainer.restore(torch.load(options.state, map_location=options.device, weights_only=True))
    elif options.start_from is not None:
        done = json.loads((options.start_from / "training.json").read_text())
        trainer.start_from(stored.read(options.start_from / "bf16"), done["step"], done["seconds"])
    run(trainer, options.state, stop_after=options.stop_after, workers=options.workers)
    report = {"plan": plan.as_dict(), "step": trainer.step, "seconds": trainer.seconds, "torch": str(torch.__version__)}
    size = export.write(trainer.model, options.out, report)
    print(f"{size:,} bytes in {options.out}", flush=True)  # noqa: T201
    if options.keep_unquantised:
        export.write_unquantised(trainer.model, options.out / "bf16")
    if options.evaluate:
        report["scores"] = _scores(trainer, options, suite)
        (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _scores(trainer: Trainer, options: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    """Scores of what was written, beside those of the same parameters before quantisation."""
    scores = {"quantised": _quantised_scores(loaded(options.out, options.device), suite)}
    print(table(scores), flush=True)  # noqa: T201
    precision = trainer.model.precision
    precision.quantise, precision.sparse = False, True
    scores["bf16"] = evaluate(trainer.model, replace(suite, lengths=suite.lengths[:2]))
    shared = {name: {key: values[key] for key in scores["bf16"]} for name, values in scores.items()}
    print(table(shared), flush=True)  # noqa: T201
    return scores


def _quantised_scores(model: TrainingModel, suite: Suite) -> dict[str, Any]:
    model.precision.quantise = model.precision.sparse = True
    return evaluate(model, suite)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ds4bench.embedded.training", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("ds4-nano"), help="folder of the exported checkpoint")
    parser.add_argument("--state", type=Path, default=Path(".nano/state.pt"), help="file of the resumable state")
    parser.add_argument(
        "--minutes", type=float, default=Plan.minutes, help="training time of the whole plan (default 9.5)"
    )
    parser.add_argument("--steps", type=int, help="steps of the whole plan, in place of --minutes")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="training time of this call")
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    parser.add_argument("--start-from", type=Path, metavar="DIR", help="go on from an export with --keep-unquantised")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=12, help="processes that make text (default 12)")
    parser.add_argument("--batch-tokens", type=int, default=Plan.batch_tokens)
    parser.add_argument("--max-length", type=int, default=Plan.max_length)
    parser.add_argument("--rate", type=float, default=Plan.rate, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--prompts", type=Path, default=_PROMPTS, help="folder of the held-out items")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-evaluate", dest="evaluate", action="store_false")
    parser.add_argument(
        "--keep-unquantised", action="store_true", help="also write the parameters in BF16, under bf16/"
    )
    parser.add_argument("--evaluate-only", type=Path, metavar="DIR")
    parser.add_argument("--write-data", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
