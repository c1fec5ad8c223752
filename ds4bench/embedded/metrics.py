"""The serve's own counters under vLLM's metric names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)


class EngineMetrics:
    """Counters, gauges and histograms of one engine, in a registry of their own."""

    def __init__(self, model_name: str, num_speculative_tokens: int = 0) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._queries = self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of admitted requests.")
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._preemptions = self._counter("num_preemptions", "Preemptions.")
        self._running = self._gauge("num_requests_running", "Requests in the running batch.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait.")
        self._kv_usage = self._gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.")
        self._ttft = self._histogram("time_to_first_token_seconds", "From submission to the first token.")
        self._itl = self._histogram("inter_token_latency_seconds", "Between tokens.")
        self._e2e = self._histogram("e2e_request_latency_seconds", "From submission to the last token.")
        self._success = Counter(
            "vllm:request_success", "Finished requests.", [*self._labels, "finished_reason"], registry=self._registry
        )
        self._preemptions_seen = 0
        if num_speculative_tokens:
            self._register_speculation(num_speculative_tokens)

    def admitted(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A request's prompt was looked up in the prefix cache."""
        self._queries.inc(prompt_tokens)
        self._hits.inc(cached_tokens)
        self._prompt_tokens.inc(prompt_tokens)

    def first_tokens(self, count: int, seconds: float) -> None:
        """The first step that gave a request tokens."""
        self._generation_tokens.inc(count)
        self._ttft.observe(seconds)

    def next_tokens(self, count: int, seconds: float) -> None:
        """A further step of a request; however many tokens it gave, it is one latency, as in vLLM."""
        self._generation_tokens.inc(count)
        self._itl.observe(seconds)

    def verified(self, num_drafted: int, num_accepted: int) -> None:
        """A request's draft was verified. Only with ``num_speculative_tokens``."""
        self._drafts.inc()
        self._draft_tokens.inc(num_drafted)
        self._accepted_tokens.inc(num_accepted)
        for counter in self._accepted_per_position[:num_accepted]:
            counter.inc()

    def finished(self, reason: str, seconds: float) -> None:
        """A request ended by itself."""
        self._success.labels(**self._labels, finished_reason=reason).inc()
        self._e2e.observe(seconds)

    def load(self, *, running: int, waiting: int, kv_usage: float, preemptions: int) -> None:
        """State of the scheduler."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._kv_usage.set(kv_usage)
        self._preemptions.inc(preemptions - self._preemptions_seen)
        self._preemptions_seen = preemptions

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)

    def _register_speculation(self, num_tokens: int) -> None:
        self._drafts = self._counter("spec_decode_num_drafts", "Drafts verified.")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Draft tokens verified.")
        self._accepted_tokens = self._counter("spec_decode_num_accepted_tokens", "Draft tokens accepted.")
        per_position = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Draft tokens accepted, by their place in the draft.",
            [*self._labels, "position"], registry=self._registry,
        )  # fmt: skip
        self._accepted_per_position = [
            per_position.labels(**self._labels, position=str(position)) for position in range(num_tokens)
        ]

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, list(self._labels), registry=self._registry).labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, list(self._labels), registry=self._registry).labels(**self._labels)

    def _histogram(self, name: str, text: str) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", text, list(self._labels), registry=self._registry, buckets=_LATENCY_BUCKETS
        )
        return histogram.labels(**self._labels)
