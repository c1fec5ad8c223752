"""One code in a long prompt, at each of several places: where does retrieval fail?"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.needle import NeedleMatrix, NeedleOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.filler import Filler, load_filler
from ds4bench.workloads.long_prompts import LongPrompts


@dataclass(frozen=True)
class NeedleText:
    """A text source with one code behind ``share`` (0 to 1) of the sentences."""

    filler: Filler
    introduction: str
    code_sentence: str
    question: str
    share: float = 0.5

    def sentences(self, rng: random.Random, count: int) -> list[str]:
        """See ``TextSource``."""
        return self.filler.sentences(rng, count)

    def compose(self, salt: str, sentences: list[str], codes: list[str], padding: int) -> str:
        """See ``TextSource``; one code."""
        body = list(sentences)
        body.insert(round(len(sentences) * self.share), self.code_sentence.format(code=codes[0]))
        return f"{salt}{self.introduction}\n\n{' '.join(body)}{self.filler.padding * padding}\n\n{self.question}"

    def at(self, share: float) -> NeedleText:
        """The same text with the code elsewhere."""
        return NeedleText(self.filler, self.introduction, self.code_sentence, self.question, share)


def load_needle() -> NeedleText:
    """Read ``prompts/needle/needle.yaml``. Raises WorkloadError when it is missing or not as it should be."""
    import yaml

    path = prompts_dir() / "needle" / "needle.yaml"
    try:
        return NeedleText(load_filler(), **yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise WorkloadError(f"{path}: cannot be read as the needle's text: {error}") from error


class Needle:
    """The workload of the needle gate: one salted prompt for each place, a closed loop over all."""

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, NeedleMatrix)
        assert isinstance(spec.options, NeedleOptions)
        self._spec, self._matrix, self._options = spec, spec.matrix, spec.options
        self._text = load_needle()
        self._prompts = LongPrompts(spec, run_id, self._text, 1)

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest prompt does not fit the serve."""
        await self._prompts.prepare(endpoint, control, max(self._matrix.prompt_tokens), self._spec.request.max_tokens)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        last = self._options.positions - 1
        warmup = self._spec.warmup.requests_per_cell
        count = last + 1
        if phase == "warmup":
            count = cell.concurrency if warmup == "concurrency" else warmup
        scripts = []
        for place in range(count):
            share = place % (last + 1) / last
            planned = await self._prompts.request(
                cell, f"{phase} {repeat} {attempt} {place}", place, int(cell.params["prompt_tokens"]),
                expect={"position": round(share, 4)}, source=self._text.at(share),
            )  # fmt: skip
            scripts.append(_script(f"{cell.id}/at{100 * share:.0f}", planned))
        return Batch(scripts, slots=cell.concurrency)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """A reply is read with its script, whose key names the place."""
        return None


def _script(key: str, planned: PlannedRequest) -> Script:
    async def run(send: Send) -> Answer | None:
        result = await send(planned)
        if not result.ok:
            return None
        found = planned.expect["codes"][0] in re.findall(r"\d+", result.content)
        return Answer(scores={"needle": float(found)}, detail={"reply": result.content})

    return Script(key=key, run=run, first=planned)
