"""Which words of a command line are keys."""

from __future__ import annotations

import pytest

from ds4bench import env, keys
from ds4bench.store import provenance

KEY = "sk-of-this-test-0123456789"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "_kept", [])
    for name in ("VLLM_API_KEY", "DS4BENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--api-key", KEY, "--port", "1"], ["--api-key", "***", "--port", "1"]),
        (["--api-key", KEY, "second", "--port", "1"], ["--api-key", "***", "***", "--port", "1"]),
        ([f"--api-key={KEY}", "model"], ["--api-key=***", "model"]),
        ([f"--api_key={KEY}"], ["--api_key=***"]),
        ([f"--api-k={KEY}"], ["--api-k=***"]),
        (["--admin-api-key", KEY], ["--admin-api-key", "***"]),
        ([f"--hf-token={KEY}"], ["--hf-token=***"]),
        ([f"--serve-arg=--api-key={KEY}", "gate"], ["--serve-arg=--api-key=***", "gate"]),
        (["--serve-arg", f"--api-key={KEY}"], ["--serve-arg", "--api-key=***"]),
        (["--serve-arg=--api-key", f"--serve-arg={KEY}"], ["--serve-arg=--api-key", "--serve-arg=***"]),
        (["--serve-arg", "--api-key", "--serve-arg", KEY], ["--serve-arg", "--api-key", "--serve-arg", "***"]),
        (["--api-server-count", "2", "--key"], ["--api-server-count", "2", "--key"]),
    ],
)
def test_values_of_keys_are_hidden_and_nothing_else(words: list[str], shown: list[str]) -> None:
    assert keys.masked(words) == shown


def test_a_run_keeps_its_command_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/ds4bench", "gate", "x", "--serve-arg", f"--api-key={KEY}"])
    assert provenance.collect()["command"] == ["ds4bench", "gate", "x", "--serve-arg", "--api-key=***"]


def test_variables_that_hold_a_key_are_hidden() -> None:
    given = {"VLLM_API_KEY": KEY, "HF_TOKEN": KEY, "VLLM_NO_USAGE_STATS": "1"}
    assert keys.masked_environment(given) == {"VLLM_API_KEY": "***", "HF_TOKEN": "***", "VLLM_NO_USAGE_STATS": "1"}


def test_a_key_that_was_found_never_reaches_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.without_secrets(f"said {KEY}") == f"said {KEY}"
    found = keys.serve_key("vllm", ["serve", "--api-key", KEY], {})
    assert found is not None
    assert KEY not in repr(found)
    assert env.without_secrets(f"said {KEY}") == "said ***"
    monkeypatch.setenv("VLLM_API_KEY", "another-of-the-shell")
    assert "another-of-the-shell" in env.secrets()


def test_sglang_takes_no_key_from_the_shell_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert keys.serve_key("sglang", ["serve"], {}) is None
    found = keys.serve_key("sglang", ["serve", "--admin-api-key", "of-admins", "--api-key=of-all"], {})
    assert found == keys.ServeKey("of-all", "--api-key")
