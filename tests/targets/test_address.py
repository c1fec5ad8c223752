"""The address of a serve: what counts as one, and what of it is never repeated."""

from __future__ import annotations

import pytest

from ds4bench import env
from ds4bench.errors import TargetError
from ds4bench.targets.address import root_of


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://example.org/proxy/v1", "https://example.org/proxy"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_the_root_of_an_address(url: str, root: str) -> None:
    assert root_of(url) == root


@pytest.mark.parametrize(
    "url",
    ["", "nowhere", "ftp://x", "http://", "http://[::1", "http://h:abc", "http://h:99999", "http://h:0", "http://a b"],
)
def test_what_is_no_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(TargetError, match=r"not an address.*write it like http://127\.0\.0\.1:8000"):
        root_of(url)


@pytest.mark.parametrize(
    "url", ["http://me:pass@h", "http://me@h", "http://:pass@h", "http://h/?key=pass", "http://h/#pass"]
)
def test_what_may_hold_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(TargetError) as error:
        root_of(url)
    assert "pass@" not in str(error.value)
    assert "=pass" not in str(error.value)
    assert "environment" in str(error.value)


def test_a_key_loses_the_line_end_of_its_file_and_must_fit_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env.API_KEY, "sk-abcdefgh\n")
    assert env.api_key() == "sk-abcdefgh"
    assert env.without_secrets("it is sk-abcdefgh") == "it is ***"
    for wrong in ("sk-abc\ndefgh", "sk-k\u00e4y-abcdef"):
        monkeypatch.setenv(env.API_KEY, wrong)
        with pytest.raises(TargetError, match="DS4BENCH_API_KEY holds characters that no HTTP header can"):
            env.api_key()
