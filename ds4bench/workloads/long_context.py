"""Cold long prompts with three codes to find: prompt length x concurrency."""

from __future__ import annotations

import random
import re

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.long_context import LongContextMatrix
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, one_request
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.request_body import PATHS, prompt_fields, salt_of, sampling_fields, template_fields
from ds4bench.workloads.token_count import make_counter
from ds4bench.workloads.token_fit import TokenFitter

_CODES = 3


class LongContext:
    """The workload of the long-context gate.

    With ``request.salt`` every prompt begins with a salt of its own, inside the first cache block, and carries it as
    ``cache_salt`` where the serve knows that: nothing is warm. Without, all repeats of a cell send the same prompts.
    """

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, LongContextMatrix)
        self._spec = spec
        self._matrix = spec.matrix
        self._run_id = run_id
        self._filler = load_filler()
        self._path = PATHS[spec.request.endpoint]
        self._endpoint: Endpoint | None = None
        self._fitter: TokenFitter | None = None

    def cells(self) -> list[Cell]:
        """See ``Workload``."""
        return self._matrix.cells()

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest prompt does not fit the serve."""
        self._endpoint = endpoint
        longest = max(self._matrix.prompt_tokens)
        needed = longest + self._spec.request.max_tokens
        if endpoint.max_model_len is not None and needed > endpoint.max_model_len:
            raise WorkloadError(
                f"the longest request needs {needed:,} tokens, but {endpoint.model} is served with a context of "
                f"{endpoint.max_model_len:,}: choose a shorter profile (--profile) or serve it with a longer context"
            )
        counter = await make_counter(control, endpoint, template_fields(self._spec.request, endpoint), self._path)
        self._fitter = TokenFitter(self._filler, counter)
        await self._fitter.calibrate(lambda i: self._salt(f"calibration {i}"), ["000000"] * _CODES, longest)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        return Batch([one_request(p) for p in await self.requests(cell, repeat, attempt, phase, control)])

    async def requests(
        self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient
    ) -> list[PlannedRequest]:
        """The requests of a batch. A warm-up sends what the gate says: by default one request."""
        warmup = self._spec.warmup.requests_per_cell
        count = cell.concurrency if phase == "measure" or warmup == "concurrency" else warmup
        return [await self._request(cell, f"{phase} {repeat} {attempt} {index}", index) for index in range(count)]

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """The share of the codes that the reply names, each as a number of its own and in whatever order."""
        if not result.ok:
            return None
        numbers = set(re.findall(r"\d+", result.content))
        found = [code for code in planned.expect["codes"] if code in numbers]
        return Answer(scores={"recall": len(found) / _CODES}, detail={"found": found})

    async def _request(self, cell: Cell, name: str, index: int) -> PlannedRequest:
        if self._endpoint is None or self._fitter is None:
            raise WorkloadError("prepare() comes before requests()")
        spec, endpoint = self._spec.request, self._endpoint
        # Without salts a prompt depends on the cell and its place in the batch alone: every repeat is the same.
        seed = f"{self._spec.seed} {cell.id} {name if spec.salt else index}"
        codes = _codes(seed)
        target = int(cell.params["prompt_tokens"])
        salt = self._salt(f"{cell.id} {name}")
        prompt = await self._fitter.fit(target, salt, codes, seed)
        body = {
            **template_fields(spec, endpoint),
            **prompt_fields(spec, prompt.text),
            **sampling_fields(spec, endpoint),
        }
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt.strip()
        expect = {
            "prompt_tokens": target,
            "codes": codes,
            "salt": salt.strip() or None,
            "fitted_tokens": prompt.tokens,
            "fit_exact": prompt.exact,
        }
        return PlannedRequest(cell.id, index, self._path, {**body, **spec.extra_body}, expect)

    def _salt(self, name: str) -> str:
        """Sixteen hex digits that no other request shares; empty when salting is off."""
        return salt_of(self._run_id, name) + "\n" if self._spec.request.salt else ""


def _codes(seed: str) -> list[str]:
    rng = random.Random(f"codes {seed}")  # noqa: S311 - test data
    return [str(code) for code in rng.sample(range(100_000, 1_000_000), _CODES)]
