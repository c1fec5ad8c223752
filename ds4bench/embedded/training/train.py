"""The training loop: Muon for matrices, AdamW for the rest; a run can stop and go on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.training import plan as course
from ds4bench.embedded.training.checkpoint import initialise, load
from ds4bench.embedded.training.dataset import BatchKey, loader
from ds4bench.embedded.training.graphs import GraphedPass
from ds4bench.embedded.training.hot import compile_all
from ds4bench.embedded.training.model import TrainingModel
from ds4bench.embedded.training.plan import Plan
from ds4bench.embedded.weights import Checkpoint

_LOG_EVERY = 25
_SAVE_EVERY_S = 120.0
_TABLES = ("embed.weight", "head.weight")
_NOT_MUON = ("gate.weight", ".fn", ".ape", "weights_proj")


@dataclass(frozen=True)
class Losses:
    """Means of one step: of the next token over all weighted tokens, of the MTP block, of the indexer (KL, nats)."""

    main: Tensor
    mtp: Tensor
    index: Tensor

    def total(self, plan: Plan) -> Tensor:
        """What is minimised."""
        return self.main + plan.mtp_weight * self.mtp + plan.index_weight * self.index


class Trainer:
    """A model with its optimisers and how far it is; ``state`` and ``restore`` carry all of that."""

    def __init__(self, config: ModelConfig, plan: Plan, device: str, *, compiled: bool = False) -> None:
        self.config, self.plan, self.device = config, plan, device
        torch.manual_seed(plan.seed)
        self.model = TrainingModel(config)
        initialise(self.model, plan.seed)
        self.model.to(device)
        if device == "cpu":
            self.model.precision.products = torch.float32
        self.optimizers = _optimizers(self.model, plan)
        self._graphed = GraphedPass(self._passes, list(self.model.parameters())) if device != "cpu" else None
        self.step, self.seconds = 0, 0.0
        if device != "cpu":
            torch.set_float32_matmul_precision("high")
        if compiled and (error := compile_all(self._probe)):
            print(f"without compilation: {error}", flush=True)  # noqa: T201

    @property
    def progress(self) -> float:
        """0 to 1."""
        return self.plan.progress(self.step, self.seconds)

    def keys(self) -> Iterator[BatchKey]:
        """What the next steps train on; read ahead by the loader's workers."""
        step = self.step
        while True:
            length = self.plan.length(step, self.plan.progress(step, self.seconds))
            yield BatchKey(self.plan.seed, step, length, self.plan.batch_tokens)
            step += 1

    def train_step(self, ids: Tensor, weights: Tensor) -> Losses:
        """One update from a batch."""
        progress = self.progress
        precision = self.model.precision
        precision.quantise = progress >= course.QUANTISE_FROM
        precision.sparse = progress >= course.SPARSE_FROM
        self.model.train()
        losses = self._gradients(ids, weights)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate * course.rate_factor(progress) * group["share"]
            optimizer.step()
        self.model.balance(self.plan.balance_speed * course.rate_factor(progress))
        self.step += 1
        return losses

    def _gradients(self, ids: Tensor, weights: Tensor) -> Losses:
        """Losses of a batch, with the gradients of all parameters in place."""
        if self._graphed is None:
            self.model.zero_grad(set_to_none=True)
            return Losses(*self._passes(ids, weights))
        precision = self.model.precision
        return Losses(*self._graphed((*ids.shape, precision.quantise, precision.sparse), ids, weights))

    def _passes(self, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        losses = self.losses(ids, weights)
        torch.autograd.backward(losses.total(self.plan))
        return losses.main, losses.mtp, losses.index

    def losses(self, ids: Tensor, weights: Tensor) -> Losses:
        """Weighted cross entropies of the next token and the one after, and the indexer's lesson."""
        queries = torch.nn.functional.pad(weights[:, 1:], (0, 1))  # a query is worth what it predicts
        out = self.model(ids, queries)
        main = _cross_entropy(out.logits[:, :-1], ids[:, 1:], weights[:, 1:])
        mtp = _cross_entropy(out.mtp_logits[:, :-2], ids[:, 2:], weights[:, 2:])
        return Losses(main, mtp, out.index_loss)

    def state(self) -> dict[str, Any]:
        """Everything that goes on from here needs."""
        return {
            "model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step, "seconds": self.seconds, "plan": self.plan.as_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def start_from(self, checkpoint: Checkpoint, step: int, seconds: float) -> None:
        """Go on from exported parameters, where the state is lost: with fresh optimisers."""
        load(self.model, checkpoint)
        self.step, self.seconds = step, seconds

    def _probe(self) -> None:
        """Forward and backward of two small batches, so that a compiler's failure shows at once."""
        for length in (256, 384):
            self.model.precision.quantise = self.model.precision.sparse = True
            self.model.train()
            ids = torch.randint(20, self.config.vocab_size, (2, length), device=self.device)
            losses = self.losses(ids, torch.ones(2, length, device=self.device))
            torch.autograd.backward(losses.total(self.plan))
            self.model.zero_grad(set_to_none=True)


def run(trainer: Trainer, state_file: Path, *, stop_after: float | None, workers: int) -> None:
    """Train until the plan ends or ``stop_after`` minutes of this call are over; the state is saved on the way."""
    batches = loader(trainer.keys(), workers)
    started, before = time.monotonic(), trainer.seconds
    saved, tokens, mark = started, 0, started
    while trainer.progress < 1.0 and (stop_after is None or time.monotonic() - started < 60 * stop_after):
        ids, weights = next(batches)
        losses = trainer.train_step(ids, weights)
        tokens += ids.numel()
        if trainer.step % _LOG_EVERY == 0:
            values = [
                round(float(x.detach()), 4) for x in (losses.main, losses.mtp, losses.index)
            ]  # waits for the device
            now = time.monotonic()
            _log(trainer, ids.shape[1], values, tokens / (now - mark))
            tokens, mark = 0, now
        trainer.seconds = before + time.monotonic() - started
        if time.monotonic() - saved > _SAVE_EVERY_S:
            save(trainer, state_file)
            saved = time.monotonic()
    save(trainer, state_file)


def save(trainer: Trainer, path: Path) -> None:
    """Write the state; an interrupted write leaves the older state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(trainer.state(), part)
    part.replace(path)


def _log(trainer: Trainer, length: int, values: list[float], rate: float) -> None:
    line = {
        "step": trainer.step, "progress": round(trainer.progress, 4), "seconds": round(trainer.seconds), "length": length,
        "loss": values[0], "mtp": values[1], "index": values[2], "tok_s": round(rate),
    }  # fmt: skip
    print(json.dumps(line), flush=True)  # noqa: T201


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum().clamp_min(1.0)


def _optimizers(model: TrainingModel, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    tables: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name in _TABLES:
            tables.append(parameter)
        elif parameter.dim() == 2 and not any(part in name for part in _NOT_MUON):
            matrices.append(parameter)
        else:
            rest.append(parameter)
    spectral: list[dict[str, Any]] = [{"params": matrices, "share": 2.0}]
    muon = torch.optim.Muon(
        spectral, lr=plan.rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
    )  # one matrix of all experts' rows counts as one
    groups: list[dict[str, Any]] = [{"params": tables, "share": 1.0}, {"params": rest, "share": 0.5}]
    adam = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.0, foreach=True)
    return [muon, adam]
