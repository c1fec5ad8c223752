"""Greedy completions with the likeliest tokens of every place, of prompts that are the same in every run."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.oracle import OPENING_TOKENS, OPENING_WORDS, OracleOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.logprobs import read_logprobs
from ds4bench.workloads.long_prompts import codes_of
from ds4bench.workloads.prefix_cache import sentences_of
from ds4bench.workloads.request_body import PATHS, prompt_fields, salt_of, sampling_fields, template_fields


@dataclass(frozen=True)
class OraclePrompts:
    """``prompts/oracle/prompts.yaml``: what stands before and after a prompt's text, and the tasks at its end in turn."""

    before: str
    after: str
    tasks: list[str]


def load_prompts() -> OraclePrompts:
    """Read the file. Raises WorkloadError when it is missing or not as it should be."""
    import yaml

    path = prompts_dir() / "oracle" / "prompts.yaml"
    try:
        return OraclePrompts(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise WorkloadError(f"{path}: cannot be read as the oracle's prompts: {error}") from error


class Oracle:
    """The workload of the oracle gate.

    What is stored of each prompt, tokens and their likeliest rivals, makes a promoted run the reference. The text has no
    salt, since it must be the same in every run; with ``request.salt`` the prompt has a ``cache_salt`` where the serve knows
    that.
    """

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.options, OracleOptions)
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._filler = load_filler()
        self._prompts = load_prompts()
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError for a gate that is not greedy or not of completions."""
        spec = self._spec.request
        if spec.endpoint != "completions" or spec.temperature != 0:
            raise WorkloadError(f"gate {self._spec.name}: set request.endpoint to completions and temperature to 0")
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        warmup = self._spec.warmup.requests_per_cell
        count = self._options.openings if _is_opening(cell) else self._options.prompts
        if phase == "warmup":
            count = cell.concurrency if warmup == "concurrency" else warmup
        names = [f"{cell.id} {phase} {repeat} {attempt} {place}" for place in range(count)]
        return Batch([self._script(cell, place, name) for place, name in enumerate(names)], slots=cell.concurrency)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """A reply is read with its script."""
        return None

    def text(self, words: int, place: int) -> str:
        """The prompt at this place of a cell: fixed by the gate's seed. Openings have 1 to ``words`` words in turn."""
        seed = f"{self._spec.seed} {words} {place}"
        if words <= OPENING_WORDS:
            (sentence,) = self._filler.sentences(random.Random(seed), 1)  # noqa: S311 - text, not secrets
            return " ".join(sentence.split()[: 1 + place % words])
        sentences = sentences_of(self._filler, random.Random(seed), words)  # noqa: S311 - text, not secrets
        codes = codes_of(seed, 3)
        journal = self._filler.compose("", sentences, codes, 0).removesuffix(self._filler.question)
        task = self._prompts.tasks[place % len(self._prompts.tasks)]
        return f"{self._prompts.before}{journal}{task}{self._prompts.after}"

    def _script(self, cell: Cell, place: int, name: str) -> Script:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        spec, text = self._spec.request, self.text(int(cell.params["words"]), place)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        body: dict[str, Any] = {
            **template_fields(spec, self._endpoint),
            **prompt_fields(spec, text),
            **sampling_fields(spec, self._endpoint),
            "logprobs": self._options.top_logprobs,
        }
        if _is_opening(cell):
            body |= {
                "max_tokens": OPENING_TOKENS,
                **({"ignore_eos": True} if self._endpoint.dialect.ignore_eos else {}),
            }
        if self._options.tokens == "ids" and self._endpoint.dialect.token_ids:
            body["return_tokens_as_token_ids"] = True
        if spec.salt and self._endpoint.dialect.cache_salt:
            body["cache_salt"] = salt_of(self._run_id, name)
        planned = PlannedRequest(cell.id, place, PATHS["completions"], {**body, **spec.extra_body}, {"text": digest})

        async def run(send: Send) -> Answer | None:
            replies = []
            for _ in range(2 if self._options.again else 1):
                result = await send(planned)
                if not result.ok:
                    return None
                replies.append(read_logprobs(result.logprobs))
            return Answer(detail={"text": digest, "replies": replies})

        return Script(key=f"{cell.id}/{place}", run=run, first=planned)


def _is_opening(cell: Cell) -> bool:
    return int(cell.params["words"]) <= OPENING_WORDS
