"""The engine: a thread that schedules, runs and samples steps, and hands tokens to asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.block_manager import BlockManager
from ds4bench.embedded.config import EngineConfig
from ds4bench.embedded.metrics import EngineMetrics
from ds4bench.embedded.sampling import Chosen, Verifier, sample, verified
from ds4bench.embedded.scheduler import Scheduled, Scheduler
from ds4bench.embedded.sequence import SamplingParams, Sequence
from ds4bench.embedded.speculative import Computed, Drafter, MtpDrafter
from ds4bench.embedded.stopping import OutputText, TokenText
from ds4bench.embedded.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Runner(Protocol):
    """What the engine needs of the model: ``runner.ModelRunner`` or a test's stand-in."""

    def step(self, inputs: list[StepInput]) -> Tensor:
        """The logits that ``inputs`` want, FP32 ``[n, vocab]``."""
        ...

    def draft(self, inputs: list[StepInput], sources: list[int]) -> Tensor:
        """See ``ModelRunner.draft``; called only with speculation."""
        ...


class EngineDeadError(RuntimeError):
    """The engine's thread has stopped; the message says why."""


@dataclass(frozen=True)
class Output:
    """What one step gave a request. ``finish_reason`` (``stop`` or ``length``) is set on the last one."""

    tokens: list[TokenText]
    num_output_tokens: int
    num_cached_tokens: int
    finish_reason: str | None = None
    error: str | None = None


@dataclass
class Request:
    """A submitted sequence and where its outputs go."""

    seq: Sequence
    text: OutputText
    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[Output] = field(default_factory=asyncio.Queue)
    submitted: float = field(default_factory=time.perf_counter)
    last_token: float | None = None

    def send(self, output: Output) -> None:
        """Called from the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.outputs.put_nowait, output)


class Engine:
    """Runs requests until ``stop``. All state of the scheduler belongs to the engine's thread, under one lock.

    ``make_runner`` is called in that thread, as all of torch should be: a second thread that uses torch has a pool of
    workers of its own, and with more workers than cores OpenMP lets them sleep between operations (measured on two cores:
    prefill at 60 % of its speed). ``make_drafter`` gets the runner and the end token's id; it is called only with
    ``num_speculative_tokens``.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        tokenizer: Tokenizer,
        config: EngineConfig,
        metrics: EngineMetrics,
        make_drafter: Callable[[Runner, int], Drafter] = MtpDrafter,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.metrics = metrics
        self.blocks = BlockManager(
            config.num_blocks,
            config.block_size,
            enable_prefix_caching=config.enable_prefix_caching,
            lookahead=1 if config.num_speculative_tokens else 0,
        )
        self.scheduler = Scheduler(config, self.blocks)
        self.verify: Verifier = verified
        self.dead: str | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loop_done: Future[None] | None = None
        self._runner = self.in_thread(make_runner)
        self._drafter = make_drafter(self._runner, tokenizer.eos_id) if config.num_speculative_tokens else None
        self._requests: dict[int, Request] = {}
        self._work = threading.Condition()
        self._stopping = False

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens: what was asked for and what the blocks can hold."""
        return min(self.config.max_model_len, self.config.num_blocks * self.config.block_size)

    def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run something in the engine's thread, before ``start``: all of torch should."""
        return self._thread.submit(work).result()

    def start(self) -> None:
        """Start serving requests."""
        self._loop_done = self._thread.submit(self._loop)

    def stop(self) -> None:
        """Stop the thread after the step in flight."""
        with self._work:
            self._stopping = True
            self._work.notify()
        if self._loop_done is not None:
            self._loop_done.result()
        self._thread.shutdown()

    def wait_for_stop(self) -> None:
        """Block until ``stop`` is called."""
        with self._work:
            self._work.wait_for(lambda: self._stopping)

    async def generate(
        self, prompt_ids: list[int], params: SamplingParams, cache_salt: str = ""
    ) -> AsyncIterator[Output]:
        """Outputs of one request. Leaving the iteration early, for any reason, frees what the request holds."""
        seq = Sequence(prompt_ids, params, cache_salt)
        request = Request(seq, OutputText(self.tokenizer, params.stop), asyncio.get_running_loop())
        with self._work:
            if self.dead is not None:
                raise EngineDeadError(self.dead)
            self._requests[seq.seq_id] = request
            self.scheduler.add(seq)
            self._work.notify()
        try:
            while True:
                output = await request.outputs.get()
                if output.error is not None:
                    raise EngineDeadError(output.error)
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self._abandon(seq)

    def reset_prefix_cache(self) -> None:
        """Forget every cached prefix."""
        with self._work:
            self.blocks.reset_cache()

    def _abandon(self, seq: Sequence) -> None:
        with self._work:
            if self._requests.pop(seq.seq_id, None) is not None:
                self.scheduler.remove(seq)
                self._observe_load()

    def _loop(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._stopping or self.scheduler.has_work())
                if self._stopping:
                    return
                step = self.scheduler.schedule()
                inputs = [_step_input(item) for item in step]
                self._count_admissions(step)
                self._observe_load()
            try:
                logits = self._runner.step(inputs)
                with self._work:
                    computed = self._take_in(step, inputs, logits)
                if self._drafter is not None and computed:
                    for item, draft in zip(computed, self._drafter.draft(computed), strict=True):
                        item.seq.draft = draft
            except Exception as error:
                log.exception("a step failed")
                self._die(f"the engine stopped: {type(error).__name__}: {error}")
                return

    def _take_in(self, step: list[Scheduled], inputs: list[StepInput], logits: Tensor) -> list[Computed]:
        """Give the requests their tokens; returns what is there to draft from."""
        done = [item for item in step if item.completes]
        alive = [i for i, item in enumerate(step) if item.seq.seq_id in self._requests]  # else the client went away
        self.scheduler.finish_step([step[i] for i in alive])
        sequences, drafts = [item.seq for item in done], [item.draft for item in done]
        chosen = sample(logits, sequences, drafts, self.tokenizer.eos_id, self.verify) if done else []
        for seq, draft, tokens in zip(sequences, drafts, chosen, strict=True):
            request = self._requests.get(seq.seq_id)
            if request is not None:
                self._append(request, tokens)
                if draft.tokens:
                    self.metrics.verified(len(draft.tokens), len(tokens) - 1)
        self._observe_load()
        return [self._computed(step[i].seq, i, inputs[i]) for i in alive]

    def _append(self, request: Request, chosen: list[Chosen]) -> None:
        """Add a step's tokens up to where the request ends, and send them in one output."""
        seq, before = request.seq, len(request.seq.output_ids)
        pieces: list[TokenText] = []
        finish = None
        for token, logprob in chosen:
            seq.output_ids.append(token)
            more, stopped = request.text.add(token, logprob, is_stop=self._is_stop(seq, token))
            pieces += more
            if stopped:
                finish = "stop"
            elif self._room(seq) == 0:
                finish = "length"
                pieces += request.text.flush()
            if finish:
                break
        count = len(seq.output_ids)
        self.scheduler.settle(seq)
        self._observe_tokens(request, count - before)
        if pieces or finish:
            request.send(Output(pieces, count, seq.num_cached or 0, finish))
        if finish:
            del self._requests[seq.seq_id]
            self.scheduler.remove(seq)
            self.metrics.finished(finish, time.perf_counter() - request.submitted)

    def _is_stop(self, seq: Sequence, token: int) -> bool:
        params = seq.params
        ends = token in params.stop_token_ids or (token == self.tokenizer.eos_id and not params.ignore_eos)
        return ends and len(seq.output_ids) >= params.min_tokens

    def _room(self, seq: Sequence) -> int:
        """Tokens that the sequence may still get."""
        return max(0, min(seq.params.max_tokens - len(seq.output_ids), self.max_model_len - seq.num_tokens))

    def _computed(self, seq: Sequence, source: int, step_input: StepInput) -> Computed:
        end = min(seq.num_computed, seq.num_tokens - 1)
        drafts = 0
        if seq.seq_id in self._requests and seq.num_uncomputed == 1:
            # The next step gives one token without a draft. The drafter itself writes positions end .. end + drafts - 2.
            reach = len(seq.block_ids) * self.config.block_size - end + 1
            drafts = max(0, min(self.config.num_speculative_tokens, self._room(seq) - 1, reach))
        return Computed(seq, source, step_input.start, end, step_input.block_ids, drafts)

    def _observe_tokens(self, request: Request, count: int) -> None:
        now = time.perf_counter()
        if request.last_token is None:
            self.metrics.first_tokens(count, now - request.submitted)
        else:
            self.metrics.next_tokens(count, now - request.last_token)
        request.last_token = now

    def _count_admissions(self, step: list[Scheduled]) -> None:
        for item in step:
            seq = item.seq
            if seq.num_computed == (seq.num_cached or 0) and not seq.preemptions and not seq.output_ids:
                self.metrics.admitted(len(seq.prompt_ids), seq.num_cached or 0)

    def _observe_load(self) -> None:
        self.metrics.load(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_usage=self.blocks.usage,
            preemptions=self.scheduler.num_preemptions,
        )

    def _die(self, reason: str) -> None:
        with self._work:
            self.dead = reason
            for request in self._requests.values():
                request.send(Output([], len(request.seq.output_ids), 0, error=reason))
            self._requests.clear()


def _step_input(item: Scheduled) -> StepInput:
    seq = item.seq
    end = seq.num_computed + item.num_tokens
    return StepInput(
        token_ids=seq.tokens(seq.num_computed, end) + item.draft.tokens,
        start=seq.num_computed,
        block_ids=list(seq.block_ids),
        want_logits=item.completes,
        num_drafts=len(item.draft.tokens),
    )
