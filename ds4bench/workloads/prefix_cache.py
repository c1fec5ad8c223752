"""Sessions over a long first message: how much of each turn the prefix cache serves, and whether the answers stay right."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.prefix_hits import BLOCK, PREFIX, REPLY, UNUSED
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.prefix_cache import SESSIONS, PrefixCacheOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.block_size import BlockSize, learn_block_size
from ds4bench.workloads.filler import Filler, load_filler
from ds4bench.workloads.logprobs import distance, read_logprobs
from ds4bench.workloads.request_body import PATHS, salt_of, sampling_fields, template_fields

_ORDINALS = ("second", "third", "first")
"""Which code the turns behind the first ask for, in order."""
SAME = "same_when_cached"
"""The score of a prompt that was sent again: 1 when its reply out of the cache is the one that was computed."""
_TOP = 8
_NOISE_FACTOR = 3.0


Repeated = tuple[int | None, int]
"""Tokens of the prompt that a prompt begins with (None: the serve does not count), and of the reply behind it."""


@dataclass(frozen=True)
class Turn:
    """One question and the codes of its answer. ``restart``: a new session begins, with the first prompt again."""

    text: str
    wanted: list[str]
    restart: bool = False


class PrefixCache:
    """The workload of the prefix-cache gate.

    Every session has a journal and three codes of its own behind a salt of the run, so that nothing is warm by accident; the
    salt is text, inside the first block. Only ``shared`` repeats a prompt on purpose: its second session begins with the
    first one's prompt, ``again`` sends one three times. A poisoned cache hits as well as a sound one, but answers with
    somebody else's codes; one with a stale state inside a block may still answer right, but its logprobs move.
    """

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.options, PrefixCacheOptions)
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._filler = load_filler()
        self._endpoint: Endpoint | None = None
        self._block: BlockSize | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError for a gate that does not talk."""
        if self._spec.request.endpoint != "chat":
            raise WorkloadError(f"gate {self._spec.name}: sessions are chats; set request.endpoint to chat")
        self._endpoint = endpoint
        self._block = await learn_block_size(control, self._options.block_size)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``. A warm-up is a whole batch."""
        if phase == "warmup" and self._spec.warmup.requests_per_cell == 0:
            return Batch([])
        again = _arrangement(cell) == "again"
        count = self._options.again_prompts if again else SESSIONS[_arrangement(cell)]
        names = [f"{cell.id} {phase} {repeat} {attempt} {place}" for place in range(count)]
        if again:  # one by one: how a prompt is cut into steps, hence its rounding, depends on what runs beside it
            return Batch([self._thrice(cell, place, name) for place, name in enumerate(names)], slots=1)
        return Batch([self._session(cell, place, name) for place, name in enumerate(names)])

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """A turn is read with its session."""
        return None

    def _session(self, cell: Cell, place: int, name: str) -> Script:
        turns = session_turns(
            self._filler, salt_of(self._run_id, name), f"{self._spec.seed} {name}", int(cell.params["words"]),
            self._options.turns, shared=_arrangement(cell) == "shared",
        )  # fmt: skip
        first = self._planned(cell, 0, [_user(turns[0].text)], (0, 0))

        async def run(send: Send) -> Answer | None:
            return await self._talk(cell, turns, first, send)

        return Script(key=f"{cell.id}/{place}", run=run, first=first)

    async def _talk(self, cell: Cell, turns: list[Turn], first: PlannedRequest, send: Send) -> Answer | None:
        messages: list[dict[str, Any]] = []
        replies: list[str] = []
        before: RequestResult | None = None
        for number, turn in enumerate(turns):
            messages = [*([] if turn.restart else messages), _user(turn.text)]
            known = _repeated(before, whole=not turn.restart)
            result = await send(self._planned(cell, number, messages, known) if number else first)
            if not result.ok:
                return None
            messages = [*messages, {"role": "assistant", "content": result.content}]
            replies.append(result.content)
            before = result
        right = [_names(reply, turn.wanted) for reply, turn in zip(replies, turns, strict=True)]
        detail = {"wanted": [turn.wanted for turn in turns], "replies": replies}
        return Answer(scores={"answers": sum(right) / len(right)}, detail=detail)

    def _thrice(self, cell: Cell, place: int, name: str) -> Script:
        """A prompt cold, out of the cache, and cold again where the serve knows ``cache_salt``."""
        assert self._endpoint is not None
        salt = salt_of(self._run_id, name)
        turns = session_turns(
            self._filler, salt, f"{self._spec.seed} {name}", int(cell.params["words"]), 2, shared=False
        )
        asked, wanted = [_user(turns[0].text)], turns[0].wanted
        tell = {"logprobs": True, "top_logprobs": _TOP}
        first = self._planned(cell, 0, asked, (0, 0), tell)
        resalted = {**tell, "cache_salt": salt} if self._endpoint.dialect.cache_salt else None

        async def run(send: Send) -> Answer | None:
            cold = await send(first)
            if not cold.ok:
                return None
            replies = [cold, await send(self._planned(cell, 1, asked, _repeated(cold, whole=False), tell))]
            if resalted is not None:
                replies.append(await send(self._planned(cell, 2, asked, (0, 0), resalted)))
            if not all(reply.ok for reply in replies):
                return None
            right = [_names(reply.content, wanted) for reply in replies]
            detail = {"wanted": wanted, "replies": [reply.content for reply in replies]}
            scores = {"answers": sum(right) / len(right)}
            return with_sameness(scores, detail, replies, self._options.same_within_nats)

        return Script(key=f"{cell.id}/{place}", run=run, first=first)

    def _planned(
        self,
        cell: Cell,
        index: int,
        messages: list[dict[str, Any]],
        known: Repeated,
        more: dict[str, Any] | None = None,
    ) -> PlannedRequest:
        if self._endpoint is None or self._block is None:
            raise WorkloadError("prepare() comes before batch()")
        spec = self._spec.request
        body = {**template_fields(spec, self._endpoint), "messages": messages, **sampling_fields(spec, self._endpoint)}
        expect = {
            PREFIX: known[0], REPLY: known[1], BLOCK: self._block.tokens, UNUSED: self._options.unused_blocks,
            "block_size_from": self._block.source,
        }  # fmt: skip
        return PlannedRequest(cell.id, index, PATHS["chat"], {**body, **(more or {}), **spec.extra_body}, expect)


def session_turns(filler: Filler, salt: str, seed: str, words: int, turns: int, *, shared: bool) -> list[Turn]:
    """The questions of a session over ``words`` words of filler; all of the length is in the first.

    With ``shared`` the second question begins another session with the same prompt.
    """
    rng = random.Random(seed)  # noqa: S311 - text, not secrets
    codes = [str(code) for code in rng.sample(range(100_000, 1_000_000), 3)]
    first = Turn(filler.compose(f"{salt}\n", sentences_of(filler, rng, words), codes, 0), codes)
    places = {"first": 0, "second": 1, "third": 2}
    asked = [Turn(f"What is the {nth} code?", [codes[places[nth]]]) for nth in _ORDINALS]
    if shared:
        return [first, Turn(first.text, codes, restart=True), *asked[: turns - 2]]
    return [first, *asked[: turns - 1]]


def sentences_of(filler: Filler, rng: random.Random, words: int) -> list[str]:
    """Sentences of so many words together, or a few more."""
    count = 8
    while True:
        sentences = filler.sentences(random.Random(rng.random()), count)  # noqa: S311 - text, not secrets
        lengths = [len(sentence.split()) for sentence in sentences]
        if sum(lengths) >= words:
            break
        count *= 2
    used = next(n for n in range(1, count + 1) if sum(lengths[:n]) >= words)
    return sentences[:used]


def with_sameness(
    scores: dict[str, float], detail: dict[str, Any], replies: Sequence[RequestResult], within_nats: float
) -> Answer:
    """An answer that also says whether a prompt's second reply, out of the cache, is the cold first one (``SAME``).

    A third reply, cold too, shows what the serve differs by from itself. Nothing is said where nothing was cached, or where
    the serve tells no logprobs.
    """
    told = [read_logprobs(reply.logprobs) for reply in replies]
    apart = [distance(reply, told[0]) for reply in told[1:]]
    if apart[0] is not None and replies[1].cached_tokens:
        noise = (apart[1] if len(apart) > 1 else None) or 0.0
        scores = {**scores, SAME: float(apart[0] <= max(within_nats, _NOISE_FACTOR * noise))}
        detail = {**detail, "cached_apart_nats": apart[0], "cold_apart_nats": noise}
    return Answer(scores=scores, detail=detail)


def _repeated(before: RequestResult | None, *, whole: bool) -> Repeated:
    """What of the next prompt the serve has computed: the last prompt and, with ``whole``, its reply but the last token."""
    if before is None:
        return 0, 0
    return before.prompt_tokens, (before.completion_tokens or 1) - 1 if whole else 0


def _names(reply: str, wanted: list[str]) -> bool:
    return set(wanted) <= set(re.findall(r"\d+", reply))


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _arrangement(cell: Cell) -> str:
    return str(cell.params["arrangement"])
