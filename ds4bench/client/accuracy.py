"""How far the client's numbers are from the truth: ``python -m ds4bench.client.accuracy [--json]``.

Streams of known timing (``scripted``, in a process of its own) are measured with the client as a gate uses it; the truth is
the log of what the server really sent. Truth of TTFT: first token written - request received. Truth of TPOT: (last token
written - first) / (tokens - 1).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator

import msgspec

from ds4bench.client.control import ControlClient
from ds4bench.client.heartbeat import percentile
from ds4bench.client.load import LoadClient
from ds4bench.client.scripted import Sent
from ds4bench.client.transport import HttpRequest, HttpxAiohttpTransport
from ds4bench.core import BatchResult
from ds4bench.errors import TargetError

CONCURRENCIES = (1, 32, 256)


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of one concurrency: reported minus true."""

    concurrency: int
    requests: int
    failed: int
    ttft_error_median_ms: float
    ttft_error_p99_ms: float
    tpot_error_percent: float  # of the mean TPOT
    tpot_error_worst_percent: float  # of any request
    lateness_max_ms: float
    heartbeat_lag_p99_ms: float
    burst_share: float
    cores: float  # client CPU seconds a second


@contextlib.contextmanager
def scripted_server(ttft_ms: float, gap_ms: float, tokens: int) -> Iterator[str]:
    """Base URL of a load server in its own process."""
    import subprocess

    options = ["--ttft-ms", str(ttft_ms), "--gap-ms", str(gap_ms), "--tokens", str(tokens)]
    command = [sys.executable, "-m", "ds4bench.client.scripted", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise TargetError("the scripted server ended before it had a port; run python -m ds4bench.client.scripted")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def measure(base_url: str, concurrency: int, *, first_id: int = 0, rounds: int = 1) -> Accuracy:
    """Stream ``rounds`` batches of ``concurrency`` requests and compare with the server's log."""
    batches: list[BatchResult] = []
    async with LoadClient(HttpxAiohttpTransport(base_url)) as client:
        for number in range(rounds):
            ids = range(first_id + number * concurrency, first_id + (number + 1) * concurrency)
            requests = [HttpRequest(path="/v1/chat/completions", body=msgspec.json.encode({"id": i})) for i in ids]
            batches.append(await client.run_batch(requests, deadline_s=60.0))
    control = ControlClient(base_url)
    try:
        log = msgspec.convert(await control.get_json("/log"), list[Sent])
    finally:
        await control.close()
    truth = {record.id: record for record in log}
    return _compare(concurrency, batches, [truth[first_id + i] for i in range(concurrency * rounds)])


def _compare(concurrency: int, batches: list[BatchResult], truth: list[Sent]) -> Accuracy:
    results = [result for batch in batches for result in batch.results]
    ttft: list[float] = []
    reported: list[float] = []
    actual: list[float] = []
    for result, sent in zip(results, truth, strict=True):
        if result.ok and result.ttft_s is not None and result.tpot_ms is not None:
            ttft.append((result.ttft_s - (sent.sent[0] - sent.received)) * 1000)
            reported.append(result.tpot_ms)
            actual.append((sent.sent[-1] - sent.sent[0]) * 1000 / (len(sent.sent) - 1))
    if not ttft:
        raise TargetError(f"no stream at concurrency {concurrency} could be measured: {results[0].error_detail}")
    mean = statistics.fmean(actual)
    return Accuracy(
        concurrency=concurrency,
        requests=len(results),
        failed=len(results) - len(ttft),
        ttft_error_median_ms=statistics.median(ttft),
        ttft_error_p99_ms=percentile(ttft, 0.99),
        tpot_error_percent=(statistics.fmean(reported) / mean - 1) * 100,
        tpot_error_worst_percent=max(abs(r / a - 1) * 100 for r, a in zip(reported, actual, strict=True)),
        lateness_max_ms=max(batch.health.lateness_max_ms for batch in batches),
        heartbeat_lag_p99_ms=max(batch.health.heartbeat_lag_p99_ms for batch in batches),
        burst_share=statistics.fmean(batch.health.burst_share for batch in batches),
        cores=statistics.fmean(batch.health.cpu_share for batch in batches),
    )


def measure_all(concurrencies: list[int], *, ttft_ms: float, gap_ms: float, tokens: int, rounds: int) -> list[Accuracy]:
    """One server process and one measurement for each concurrency."""
    rows: list[Accuracy] = []
    for concurrency in concurrencies:
        with scripted_server(ttft_ms, gap_ms, tokens) as base_url:
            rows.append(asyncio.run(measure(base_url, concurrency, rounds=rounds)))
        time.sleep(0.2)
    return rows


def table(rows: list[Accuracy]) -> str:
    """The rows as a Markdown table."""
    head = (
        "| c | requests | failed | TTFT error median (ms) | p99 (ms) | TPOT error (%) | worst (%) | lateness max (ms) "
        "| heartbeat p99 (ms) | bursts | cores |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in rows:
        cells = [
            f"{row.concurrency}", f"{row.requests}", f"{row.failed}", f"{row.ttft_error_median_ms:.2f}",
            f"{row.ttft_error_p99_ms:.2f}", f"{row.tpot_error_percent:+.3f}", f"{row.tpot_error_worst_percent:.3f}",
            f"{row.lateness_max_ms:.1f}", f"{row.heartbeat_lag_p99_ms:.1f}", f"{row.burst_share:.4f}",
            f"{row.cores:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=list(CONCURRENCIES))
    parser.add_argument("--ttft-ms", type=float, default=200.0)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = measure_all(
        options.concurrency,
        ttft_ms=options.ttft_ms,
        gap_ms=options.gap_ms,
        tokens=options.tokens,
        rounds=options.rounds,
    )
    sys.stdout.write((msgspec.json.encode(rows).decode() if options.json else table(rows)) + "\n")


if __name__ == "__main__":
    main()
