"""``serve embedded`` as it is, but for the model: its logits say what a script says. Launched for real by the tests.

``SCRIPT`` names a JSON file of ``[[needles, reply], ...]``: the first entry whose needles all stand in the prompt is the
reply, token by token as the tokenizer cuts it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from ds4bench.embedded import runner
from ds4bench.embedded.__main__ import main
from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.tokenizer import Tokenizer


class ScriptedRunner:
    """Stands in for ``ModelRunner``. One request at a time, no prefix caching."""

    weights_revision = "scripted"
    uses_graphs = False

    def __init__(self, _model: ModelConfig, _config: EngineConfig, _checkpoint: object = None, **_: object) -> None:
        self._script: list[tuple[list[str], str]] = json.loads(Path(os.environ["SCRIPT"]).read_text())
        self._tokenizer = Tokenizer()
        self._prompt: list[int] = []
        self._reply: list[int] = []

    def warm_up(self) -> None:
        """A script has nothing to warm."""

    def step(self, inputs: list[StepInput]) -> torch.Tensor:
        """One-hot logits FP32 ``[1, vocab]`` of the reply's next token."""
        (step,) = inputs
        if step.start == 0:
            self._prompt, self._reply = [], []
        self._prompt[step.start :] = step.token_ids
        if not step.want_logits:
            return torch.empty(0, self._tokenizer.vocab_size)
        if not self._reply:
            self._reply = self._choose(self._tokenizer.decode(self._prompt))
        logits = torch.full((1, self._tokenizer.vocab_size), -30.0)
        logits[0, self._reply.pop(0)] = 30.0
        return logits

    def _choose(self, prompt: str) -> list[int]:
        for needles, reply in self._script:
            if all(needle in prompt for needle in needles):
                return [*self._tokenizer.encode(reply), self._tokenizer.eos_id]
        raise LookupError(f"no reply for {prompt[-300:]!r}")


if __name__ == "__main__":
    runner.ModelRunner = ScriptedRunner  # type: ignore[assignment, misc]
    sys.exit(main(sys.argv[1:]))
