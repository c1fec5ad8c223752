"""Requests with long prompts of an exact token count, each with codes of its own hidden in filler."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Cell, PlannedRequest
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.request_body import PATHS, prompt_fields, salt_of, sampling_fields, template_fields
from ds4bench.workloads.token_count import make_counter
from ds4bench.workloads.token_fit import TextSource, TokenFitter


class LongPrompts:
    """Builds the requests of gates with long prompts.

    With ``request.salt`` every prompt begins with a salt of its own, inside the first cache block, and carries it as
    ``cache_salt`` where the serve knows that: nothing is warm. Without, all repeats of a cell send the same prompts.
    """

    def __init__(self, spec: GateSpec, run_id: str, source: TextSource, codes: int) -> None:
        self._spec = spec
        self._run_id = run_id
        self._source = source
        self._codes = codes
        self._path = PATHS[spec.request.endpoint]
        self._endpoint: Endpoint | None = None
        self._fitter: TokenFitter | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient, longest: int, max_tokens: int) -> None:
        """Calibrate. Raises WorkloadError when a prompt of ``longest`` tokens and its reply do not fit the serve."""
        self._endpoint = endpoint
        needed = longest + max_tokens
        if endpoint.max_model_len is not None and needed > endpoint.max_model_len:
            raise WorkloadError(
                f"the longest request needs {needed:,} tokens, but {endpoint.model} is served with a context of "
                f"{endpoint.max_model_len:,}: choose a shorter profile (--profile) or serve it with a longer context"
            )
        counter = await make_counter(control, endpoint, template_fields(self._spec.request, endpoint), self._path)
        self._fitter = TokenFitter(self._source, counter)
        await self._fitter.calibrate(lambda i: self._salt(f"calibration {i}"), ["000000"] * self._codes, longest)

    async def request(
        self,
        cell: Cell,
        name: str,
        index: int,
        tokens: int,
        *,
        changes: Mapping[str, Any] | None = None,
        expect: Mapping[str, Any] | None = None,
        source: TextSource | None = None,
    ) -> PlannedRequest:
        """A request of ``tokens`` prompt tokens; ``name`` is its own in the whole run, ``index`` in its batch.

        ``changes`` are fields of the gate's ``request`` that this one has otherwise; ``expect`` is kept with its row beside
        the codes and the length. Raises WorkloadError for a length that cannot be met.
        """
        if self._endpoint is None or self._fitter is None:
            raise WorkloadError("prepare() comes before requests()")
        spec, endpoint = self._spec.request.model_copy(update=dict(changes or {})), self._endpoint
        # Without salts a prompt depends on the cell and its place in the batch alone: every repeat is the same.
        seed = f"{self._spec.seed} {cell.id} {name if spec.salt else index}"
        codes = codes_of(seed, self._codes)
        salt = self._salt(f"{cell.id} {name}")
        fitter = self._fitter if source is None else self._fitter.with_source(source)
        prompt = await fitter.fit(tokens, salt, codes, seed)
        body = {
            **template_fields(spec, endpoint),
            **prompt_fields(spec, prompt.text),
            **sampling_fields(spec, endpoint),
        }
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt.strip()
        kept = {
            "prompt_tokens": tokens,
            "codes": codes,
            "salt": salt.strip() or None,
            "fitted_tokens": prompt.tokens,
            "fit_exact": prompt.exact,
            **(expect or {}),
        }
        return PlannedRequest(cell.id, index, self._path, {**body, **spec.extra_body}, kept)

    def _salt(self, name: str) -> str:
        """Sixteen hex digits that no other request shares; empty when salting is off."""
        return salt_of(self._run_id, name) + "\n" if self._spec.request.salt else ""


def codes_of(seed: str, count: int) -> list[str]:
    """So many different numbers of six digits."""
    rng = random.Random(f"codes {seed}")  # noqa: S311 - test data
    return [str(code) for code in rng.sample(range(100_000, 1_000_000), count)]
