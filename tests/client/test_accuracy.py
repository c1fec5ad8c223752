"""The accuracy command runs against its own server process and compares like with like."""

from __future__ import annotations

import json

import pytest

from ds4bench.client import accuracy


@pytest.mark.integration
def test_the_command_reports_every_concurrency(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(
        ["--concurrency", "1", "3", "--ttft-ms", "50", "--gap-ms", "5", "--tokens", "8", "--rounds", "2", "--json"]
    )
    rows = json.loads(capsys.readouterr().out)
    assert [(row["concurrency"], row["requests"], row["failed"]) for row in rows] == [(1, 2, 0), (3, 6, 0)]
    # t0 lies before the server's receipt and the stamp after the server's write: an error below zero is a wrong definition.
    assert all(row["ttft_error_median_ms"] > 0 for row in rows)
