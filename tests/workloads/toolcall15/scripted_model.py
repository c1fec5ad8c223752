"""The embedded serve with a model that follows a script, launched as a process of its own by the tests.

``TOOLCALL_SCRIPT`` names a JSON file of ``[[needles, reply], ...]``. The first entry whose needles all stand in the prompt
gives the reply; the real engine, parser and server do the rest. One request at a time.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ds4bench.embedded import runner
from ds4bench.embedded.__main__ import main
from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.tokenizer import Tokenizer


class ScriptedRunner(runner.ModelRunner):
    """The real runner but for the logits, which say the script's next token."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._script = json.loads(Path(os.environ["TOOLCALL_SCRIPT"]).read_text())
        self._words = Tokenizer()
        self._seen: list[int] = []
        self._left: list[int] = []

    def step(self, inputs: list[StepInput]) -> torch.Tensor:
        """One-hot logits FP32 ``[1, vocab]``, or ``[0, vocab]`` in the middle of a prompt."""
        (request,) = inputs
        if request.start == 0:
            self._seen, self._left = [], []
        self._seen[request.start :] = request.token_ids
        logits = torch.zeros(int(request.want_logits), self._words.vocab_size)
        if request.want_logits:
            self._left = self._left or self._reply(self._words.decode(self._seen))
            logits[0, self._left.pop(0)] = 60.0
        return logits

    def _reply(self, prompt: str) -> list[int]:
        reply = next((r for needles, r in self._script if all(n in prompt for n in needles)), None)
        assert reply is not None, f"the script has no reply to {prompt[-300:]!r}"
        return [*self._words.encode(reply), self._words.eos_id]


if __name__ == "__main__":
    runner.ModelRunner = ScriptedRunner  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
