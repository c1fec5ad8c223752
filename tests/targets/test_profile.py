"""Target profiles: what comes along is complete, and a copy of one's own works."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4bench.errors import TargetError
from ds4bench.targets.engine import plan_launch
from ds4bench.targets.identify import dialect_of
from ds4bench.targets.profile import command_line, load_profile, profile_names, serve_profiles, with_extra

NEEDED = {"vllm": ["--enable-prompt-tokens-details"], "sglang": ["--enable-metrics", "--enable-cache-report"]}


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid_and_speaks_a_known_dialect(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert dialect_of(profile.engine).engine == profile.engine


@pytest.mark.parametrize("name", [name for name in profile_names() if load_profile(name).kind == "launch"])
def test_every_launch_has_the_flags_that_validity_needs(name: str) -> None:
    profile = load_profile(name)
    command = plan_launch(profile, "some/model", port=8000).command
    assert all(flag in command for flag in NEEDED[profile.engine])
    assert "some/model" in command
    assert "8000" in command


def test_the_profiles_of_the_issue_are_there() -> None:
    assert {"vllm", "sglang", "hosted-deepseek", "attach", "embedded"} <= set(profile_names())
    wanted = {"rtx-pro-6000-tp2", "rtx-pro-6000-tp2-mtp2", "b200-tp4", "gb10-2node-ray", "gb10-2node-mp", "h200", "cpu"}
    assert wanted <= set(serve_profiles("vllm"))


def test_the_published_command_of_two_rtx_pro_6000_with_mtp() -> None:
    words = command_line(load_profile("vllm", "rtx-pro-6000-tp2-mtp2").all_flags())
    text = " ".join(words)
    for part in (
        "--tensor-parallel-size 2", "--kv-cache-dtype fp8", "--block-size 256", "--max-model-len 131072", "--max-num-seqs 4",
        "--max-num-batched-tokens 4096", "--tokenizer-mode deepseek_v4", "--tool-call-parser deepseek_v4",
        "--reasoning-parser deepseek_v4", "--no-enable-prefix-caching", '"num_speculative_tokens":2', "--reasoning-config",
    ):  # fmt: skip
        assert part in text
    assert not any(
        "--speculative-config" in w for w in command_line(load_profile("vllm", "rtx-pro-6000-tp2").all_flags())
    )


def test_a_users_flag_takes_the_place_of_the_profiles() -> None:
    flags, words = with_extra(load_profile("vllm", "rtx-pro-6000-tp2"), ["--max-num-seqs=8", "--enable-prefix-caching"])
    assert "max-num-seqs" not in flags
    assert "enable-prefix-caching" not in flags
    assert flags["block-size"] == 256
    assert words == ["--max-num-seqs=8", "--enable-prefix-caching"]


def test_what_validity_needs_cannot_be_switched_off() -> None:
    with pytest.raises(TargetError, match="enable-prompt-tokens-details belongs to every vllm serve"):
        with_extra(load_profile("vllm"), ["--no-enable-prompt-tokens-details"])


def test_a_copy_of_a_profile_is_taken_by_its_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\ntitle: t\nengine: vllm\nkind: launch\nextends: vllm-h200\nflags: {max-model-len: 4096}\n"
    )
    profile = load_profile("vllm", str(mine))
    assert profile.all_flags()["max-model-len"] == 4096
    assert profile.all_flags()["enforce-eager"] is True
    assert profile.environment["VLLM_DEEP_GEMM_WARMUP"] == "skip"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: m\ntitle: t\nengine: vllm\nkind: launch\nflgs: {}\n",
            "mine.yaml:5: flgs: unknown key; allowed: name, .*did you mean 'flags'",
        ),
        (
            "name: m\ntitle: t\nengine: vllm\nkind: launch\nflgs:\n  a: b\n",
            "mine.yaml:5: flgs: unknown key; allowed: name, ",
        ),
        (
            "name: m\ntitle: t\nengine: vllm\nkind: launch\nrerouted:\n- {id: a, since: b, to: c,\n   frm: d}\n",
            r"mine.yaml:7: rerouted\.0\.frm: unknown key$",  # the keys of the whole file are none of its
        ),
        ("name: m\ntitle: t\nengine: vlm\nkind: launch\n", "'vlm' has no dialect"),
        ("name: m\ntitle: t\nengine: sglang\nkind: launch\n", "is for sglang, not for --target vllm"),
        ("name: m\ntitle: t\nengine: vllm\nkind: launch\nextends: vlmm\n", "did you mean 'vllm'"),
    ],
)
def test_a_mistake_in_a_profile_names_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(TargetError, match=words):
        load_profile("vllm", str(mine))


def test_a_name_that_stands_for_two_profiles_says_which_and_when() -> None:
    with pytest.raises(TargetError) as refused:
        load_profile("vllm", "gb10-2node")
    text = str(refused.value)
    assert "there are 2 serve profiles gb10-2node-*: gb10-2node-mp (vLLM's own processes" in text
    assert "or gb10-2node-ray (a Ray cluster" in text
    assert "\n" not in text
