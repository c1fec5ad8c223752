"""Random words of an exact token count and replies of an exact length: prompt length x concurrency, closed loop."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.random_lengths import RandomLengthsMatrix, RandomLengthsOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, one_request
from ds4bench.workloads.filler import Filler, load_filler
from ds4bench.workloads.request_body import PATHS, prompt_fields, salt_of, sampling_fields, template_fields
from ds4bench.workloads.token_count import make_counter
from ds4bench.workloads.token_fit import TokenFitter

_WORDS = 4
"""Words drawn at a time: few, so that a prompt of a hundred tokens can be met too."""


@dataclass(frozen=True)
class RandomWords:
    """A ``TextSource`` of independent words: no grammar, nothing to answer."""

    words: list[str]
    padding: str

    def sentences(self, rng: random.Random, count: int) -> list[str]:
        """``count`` groups of random words."""
        return [" ".join(rng.choices(self.words, k=_WORDS)) for _ in range(count)]

    def compose(self, salt: str, sentences: list[str], codes: list[str], padding: int) -> str:
        """The words behind the salt."""
        return f"{salt}{' '.join(sentences)}{self.padding * padding}"


def random_words(filler: Filler) -> RandomWords:
    """Every word of the filler's lists, each once."""
    return RandomWords(sorted({word for words in filler.words.values() for word in words}), filler.padding)


class RandomLengths:
    """The workload of the gates ``random`` and ``prefill-sweep``.

    Every request of a run has words of its own, drawn from the gate's seed, its cell and its place, behind a salt of the run:
    no prompt shares a beginning with another. ``request.max_tokens`` with ``ignore_eos`` is the length of every reply.
    """

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, RandomLengthsMatrix)
        assert isinstance(spec.options, RandomLengthsOptions)
        self._spec, self._matrix, self._options = spec, spec.matrix, spec.options
        self._run_id = run_id
        self._words = random_words(load_filler())
        self._path = PATHS[spec.request.endpoint]
        self._endpoint: Endpoint | None = None
        self._fitter: TokenFitter | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest request does not fit the serve."""
        self._endpoint = endpoint
        longest = max(self._matrix.prompt_tokens)
        needed = longest + self._spec.request.max_tokens
        if endpoint.max_model_len is not None and needed > endpoint.max_model_len:
            raise WorkloadError(
                f"the longest request needs {needed:,} tokens, but {endpoint.model} is served with a context of "
                f"{endpoint.max_model_len:,}: choose a shorter profile (--profile) or serve it with a longer context"
            )
        counter = await make_counter(control, endpoint, template_fields(self._spec.request, endpoint), self._path)
        self._fitter = TokenFitter(self._words, counter)
        await self._fitter.calibrate(lambda i: self._salt(f"calibration {i}"), [], longest)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        warmup = self._spec.warmup.requests_per_cell
        if phase == "warmup":
            count = cell.concurrency if warmup == "concurrency" else warmup
        else:
            count = max(self._options.requests, cell.concurrency)
        requests = [await self._request(cell, f"{phase} {repeat} {attempt} {index}", index) for index in range(count)]
        return Batch([one_request(planned) for planned in requests], slots=cell.concurrency)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: random words have no answer."""
        return None

    async def _request(self, cell: Cell, name: str, index: int) -> PlannedRequest:
        if self._endpoint is None or self._fitter is None:
            raise WorkloadError("prepare() comes before batch()")
        spec, endpoint = self._spec.request, self._endpoint
        target, salt = int(cell.params["prompt_tokens"]), self._salt(f"{cell.id} {name}")
        prompt = await self._fitter.fit(target, salt, [], f"{self._spec.seed} {cell.id} {name if spec.salt else index}")
        body = {
            **template_fields(spec, endpoint),
            **prompt_fields(spec, prompt.text),
            **sampling_fields(spec, endpoint),
        }
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt.strip()
        expect = {"prompt_tokens": target, "fitted_tokens": prompt.tokens, "fit_exact": prompt.exact}
        return PlannedRequest(cell.id, index, self._path, {**body, **spec.extra_body}, expect)

    def _salt(self, name: str) -> str:
        return salt_of(self._run_id, name) + "\n" if self._spec.request.salt else ""
