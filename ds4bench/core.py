"""Data that crosses the borders between the parts of ds4bench: plain records, no behaviour, no I/O.

Times are seconds or milliseconds as the name says; instants are relative to the barrier of their batch.
Records are ``msgspec.Struct`` so that a run folder's JSON lines decode typed and fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Literal

import msgspec

from ds4bench.gpu_state import GpuState

METRIC_SCHEMA = 1
"""Version of the metric definitions (client/timeline.py). Runs of different versions are never compared."""

Phase = Literal["warmup", "measure", "refused"]
"""A refused request was sent back for its rate (429) and followed by a new one; it is kept and counts for nothing."""


class Verdict(StrEnum):
    """The five verdicts; exit codes live in verdicts/exit_codes.py."""

    PASS = "PASS"  # noqa: S105 - a verdict
    FAIL = "FAIL"
    INVALID = "INVALID"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIPPED = "SKIPPED"


class CheckStatus(StrEnum):
    """Outcome of one validity check."""

    OK = "ok"
    FAILED = "failed"
    UNVERIFIED = "unverified"
    NOT_APPLICABLE = "not_applicable"


class Cell(msgspec.Struct, frozen=True):
    """One point of a gate's matrix: ``id`` like ``p8192-c2`` or ``items0-49``; ``params`` are the matrix values."""

    id: str
    concurrency: int
    params: dict[str, int | float | str]


class PlannedRequest(msgspec.Struct, frozen=True):
    """One request that a workload wants sent: where, what, and what it expects of the answer."""

    cell: str
    index: int
    path: str
    body: dict[str, Any]
    expect: dict[str, Any]


class RequestResult(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed request as the client saw it (definitions: client/timeline.py). None means not measurable.

    ``error`` is a stable word (``http_429``, ``deadline``, ``disconnect``, ``bad_json``, ``no_usage``, ``no_tokens``,
    ``connect``, ``stream_error``, ``finish_abort`` and the like); ``error_detail`` is one line for a person.
    """

    ok: bool
    error: str | None = None
    error_detail: str | None = None
    http_status: int | None = None
    retry_after_s: float | None = None  # what a refusal for the rate asks to wait
    start_s: float = 0.0  # t0, relative to the barrier
    lateness_ms: float = 0.0  # t0 minus the instant it was due
    connect_ms: float | None = None
    first_byte_s: float | None = None
    ttft_s: float | None = None
    ttfa_s: float | None = None
    e2e_s: float | None = None  # ends at the last token
    stream_close_ms: float | None = None  # from the last token to the end of the stream
    tpot_ms: float | None = None
    tpot_decode_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    first_chunk_tokens: int | None = None
    finish_reason: str | None = None
    model: str | None = None
    chunk_times_s: list[float] = []  # token-bearing chunks, relative to t0
    reads: int = 0
    burst_reads: int = 0  # socket reads that brought more than one token-bearing event
    comments: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = []
    logprobs: list[Any] = []


class ClientHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How well the client itself ran while a batch was in flight."""

    heartbeat_lag_p50_ms: float
    heartbeat_lag_p99_ms: float
    heartbeat_lag_max_ms: float
    lateness_max_ms: float
    burst_share: float  # share of reads that brought more than one token-bearing event
    cpu_share: float  # client process CPU seconds / wall seconds


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of the scripts that shared one barrier, in the order of the scripts.

    The steady window of a closed loop lies between the instant when all slots were busy and the first instant when a slot
    found nothing more to start; it is None for an open batch. ``delivered_concurrency`` is the mean number of requests in
    flight in that window, without one the peak.
    """

    results: list[RequestResult]
    health: ClientHealth
    wall_s: float
    delivered_concurrency: float
    steady_start_s: float | None = None
    steady_end_s: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload read in one reply or script. ``scores`` are workload-defined numbers in 0..1 (for example recall)."""

    scores: dict[str, float] = {}
    detail: dict[str, Any] = {}


class RequestRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``requests.jsonl``: a finished request, good or bad. ``attempt`` counts restarts of its batch.

    ``script`` is its script's place in the batch, ``turn`` counts that script's requests from 0, ``index`` is the workload's.
    """

    cell: str
    repeat: int
    attempt: int
    index: int
    phase: Phase
    result: RequestResult
    expect: dict[str, Any] = {}
    answer: Answer | None = None
    script: int = 0
    turn: int = 0


class ScriptRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``scripts.jsonl``: a script that ended, with what the workload made of all its replies.

    ``key`` names the item, the same in every run (``test/17``, ``TC-08``): paired rules match on cell, repeat and key.
    ``requests`` is how many requests it sent; rows of a torn earlier try with a higher turn do not count.
    """

    cell: str
    repeat: int
    attempt: int
    phase: Phase
    script: int
    key: str
    requests: int
    answer: Answer | None = None


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``batches.jsonl``: written after every request of the batch is, so its presence means complete."""

    cell: str
    repeat: int
    attempt: int
    phase: Phase
    requests: int
    wall_s: float
    delivered_concurrency: float
    health: ClientHealth
    counters: dict[str, float] = {}  # deltas of the serve's own counters, by the canonical names of targets/dialect.py
    probe_ms: float | None = None  # time of the fixed CPU probe just before the batch (store/cpu_probe.py)
    foreign_cores: float | None = None  # of the cores that client and serve may use, how many others kept busy
    steady_start_s: float | None = None  # see BatchResult
    steady_end_s: float | None = None
    # The serve's GPUs, all of this machine's where it cannot be told (targets/gpu_watch.py).
    gpus_before: list[GpuState] = []
    gpus_after: list[GpuState] = []


class KernelHook(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a bundled kernel stands in for an engine's, as the engine's process reports it.

    ``state``: pending (its module was never imported), installed, skipped or failed, with the ``reason``. Of the calls that
    reached it, ``calls`` ran the bundled kernel; ``inactive`` and ``declined`` (by reason) went to the engine's own, as does
    what torch.compile makes of those that it ``traced``. One that does not compute (``computes``) only chooses among the
    engine's classes, and proves nothing.
    """

    hook: str
    op: str
    group: str
    state: str
    computes: bool = True
    reason: str = ""
    calls: int = 0
    inactive: int = 0
    traced: int = 0
    declined: dict[str, int] = {}


class KernelProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of the engine reports of its kernels: ``version`` is the engine's, ``note`` one line for a person."""

    pid: int
    process: str
    engine: str
    version: str | None = None
    table: str | None = None
    note: str = ""
    mode: str = "auto"
    ops: str | None = None
    shadow: bool = False  # both kernels ran and the engine's result was used
    sabotage: dict[str, float] = {}
    hooks: list[KernelHook] = []


class KernelUse(msgspec.Struct, frozen=True, kw_only=True):
    """Which kernels were asked for with ``--kernels``, and what proves that they ran.

    ``selection``: groups and ops that shall run on the bundle, None for all, empty for none. ``launches``: for every start
    of the serve its processes. ``backends``: the embedded engine has no hooks; its op table says what runs each op.
    """

    choice: str
    selection: list[str] | None
    launches: list[list[KernelProcess]] = []
    backends: dict[str, str] | None = None

    def selected(self, processes: Iterable[KernelProcess]) -> Iterator[KernelHook]:
        """The hooks of these processes that shall run on the bundle."""
        for hook in (hook for process in processes for hook in process.hooks):
            if self.selection is None or hook.op in self.selection or hook.group in self.selection:
                yield hook


EMBEDDED_ENGINE = "ds4bench-embedded"  # what our own engine calls itself in /version
UNKNOWN_METHOD = "unknown-"
"""Before the depth of a speculation whose method the serve does not tell."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered, on what. Stored with every run; never holds a secret."""

    engine: str
    engine_version: str | None = None
    model: str
    model_revision: str | None = None
    weights: str | None = None  # "random", "trained", None = unknown
    prefix_caching: bool | None = None
    speculative: str | None = None  # method and depth, "unknown-2" where only the depth is known; see ``speculation``
    flags: dict[str, Any] = {}
    faults: list[str] = []
    hardware: dict[str, Any] = {}  # cpu, cores, gpus (names), driver: of the serve's machine when it is this one
    local: bool = False
    kernels: KernelUse | None = None  # where the serve was launched with --kernels

    @property
    def speculation(self) -> str | None:
        """``speculative``; ``off`` where the serve told how it serves and named none; None: unknown."""
        return "off" if self.speculative is None and self.prefix_caching is not None else self.speculative


class DataIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which items a workload read. All but ``source`` (a path, for ``--resume``) is part of the measurement."""

    name: str
    items: int
    sha256: str
    source: str | None = None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one validity check, in words a user reads in the report."""

    name: str
    status: CheckStatus
    detail: str
    cells: list[str] = []


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio candidate / baseline with its two-sided interval: 90 %, or 95 % where a second look was declared.

    ``paired``: the repeats of both sides were measured side by side, so that only their differences count.
    """

    ratio: float
    low: float
    high: float
    noise_cv: float  # run-to-run coefficient of variation that entered the interval
    candidate: float  # geometric mean, in the metric's unit
    baseline: float
    candidate_repeats: int
    baseline_repeats: int
    paired: bool = False


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """What ``ds4bench calibrate`` measured for one rule (stats/calibration.py): relative standard deviations of one build."""

    sessions: int
    repeats: float  # harmonic mean a session
    repeat_cv: float
    session_cv: float
    session_cv_upper: float  # what a rule takes as its session_cv
    confidence: float
    created: str
    runs: list[str]


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule says. ``cell`` is None for a rule over all cells. ``primary`` rules can PASS or FAIL a gate."""

    rule: str
    verdict: Verdict
    sentence: str
    cell: str | None = None
    primary: bool = True
    margin: float | None = None
    estimate: Estimate | None = None
    repeats_needed: int | None = None
    p: float | None = (
        None  # one-sided, of "no worse than the baseline", for Holm over a suite; None: no such test decides
    )
    fail_alpha: float | None = None  # the level of that test where the rule states one
    absolute: bool = False  # a rule that compares says this, but it rests on a limit that asks no baseline


class GateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one gate run. ``sentence`` is the one line that says why."""

    verdict: Verdict
    sentence: str
    checks: list[CheckResult]
    rules: list[RuleResult]
    baseline: str | None = None
    notes: list[str] = []


class RunManifest(msgspec.Struct, frozen=True, kw_only=True):
    """``run.json``: what was asked, of whom, by which code."""

    schema: int
    run_id: str
    created: str  # UTC, ISO 8601
    gate: str
    profile: str
    effective_gate: dict[str, Any]
    measurement_hash: str
    measurement: dict[str, Any]  # the parts of the gate that change the measurement: what the hash is over
    target: dict[str, Any]
    fingerprint: Fingerprint | None
    provenance: dict[str, Any]
    metric_schema: int = METRIC_SCHEMA
    detectable: list[str] = []  # what each rule could see, said before the run started


class RunData(msgspec.Struct, frozen=True, kw_only=True):
    """A run as read back from its folder: everything a verdict or report needs."""

    manifest: RunManifest
    requests: list[RequestRow]
    batches: list[BatchRow]
    verdict: GateVerdict | None = None
    died: str | None = None  # why the serve was lost, when it was
    deaths_before: list[str] = []  # the same, of the serves from which the run was resumed
    scripts: list[ScriptRow] = []
    stopped: str | None = None  # why the run ended before its plan did: the gate was decided


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A promoted run in small: per-request values the statistics need, and what makes it comparable."""

    schema: int
    name: str
    created: str
    gate: str
    profile: str
    run_id: str
    measurement_hash: str
    measurement: dict[str, Any]
    metric_schema: int
    fingerprint: Fingerprint
    provenance: dict[str, Any]
    requests: list[RequestRow]  # measured rows only; content, reasoning and chunk times are dropped
    note: str | None = None
    scripts: list[ScriptRow] = []  # measured, without their details
    batches: list[BatchRow] = []
    noise: dict[str, Noise] = {}  # by rule, from `ds4bench calibrate`
    interleaved_with: str | None = None  # id of the run that it was measured with, repeat by repeat (`ds4bench ci`)
