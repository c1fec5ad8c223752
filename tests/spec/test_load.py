"""Gate files: what is loaded, and what a person is told about a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds4bench.errors import SpecError
from ds4bench.spec.load import EffectiveGate, effective_from_dict, list_gates, load_gate

GATES = Path(__file__).parents[2] / "gates"

SMALL = """\
name: small
title: Small
purpose: one line
workload: long_context
seed: 1
request:
  max_tokens: 4
  deadline_s: 10
matrix:
  prompt_tokens: [100]
  concurrency: [1]
rules:
  - name: ttft
    kind: ratio
    metric: ttft_s
    margin: 0.05
    session_cv: 0.01
  - name: failures
    kind: zero_failures
profiles:
  tiny:
    request: {max_tokens: 1}
    rules:
      - name: ttft
        margin: 0.5
"""


def write(folder: Path, text: str, name: str = "small") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def shipped(profile: str | None = None, *overrides: str) -> EffectiveGate:
    return load_gate("long-context", profile=profile, overrides=overrides, directory=GATES)


def mistake(folder: Path, text: str, **how: object) -> str:
    path = write(folder, text)
    with pytest.raises(SpecError) as caught:
        load_gate("small", directory=folder, **how)  # type: ignore[arg-type]
    return str(caught.value).replace(str(path), "small.yaml")


def test_shipped_gate_has_the_promised_profiles() -> None:
    full, short, smoke = shipped(), shipped("short"), shipped("smoke")
    assert full.profile == "full"
    assert [c.id for c in full.spec.matrix.cells()][:2] == ["p62080-c1", "p62080-c2"]
    assert (full.spec.matrix.prompt_tokens, full.spec.matrix.concurrency) == ([62080, 124080], [1, 2, 3, 4])
    assert (full.spec.request.max_tokens, full.spec.repeats.count) == (128, 5)
    assert (short.spec.matrix.prompt_tokens, short.spec.matrix.concurrency) == ([4047], [1, 2, 4])
    assert short.spec.request.max_tokens == 64
    assert [c.id for c in smoke.spec.matrix.cells()] == ["p2048-c1", "p2048-c2", "p8192-c1", "p8192-c2"]
    margins = [
        (gate.spec.rules[0].margin, gate.spec.rules[0].per_cell_margin)  # type: ignore[union-attr]
        for gate in (full, short, smoke)
    ]
    assert margins == [(0.05, 0.1), (0.05, 0.1), (0.15, 0.25)]


def test_gates_are_listed_with_purpose_and_profiles() -> None:
    gates = {gate.name: gate for gate in list_gates(GATES)}
    assert gates["long-context"].profiles == ["full", "short", "smoke"]
    assert "cold" in gates["long-context"].purpose


def test_mt_bench_with_mtp_measures_and_judges_what_full_does_and_asks_for_a_serve_that_speculates() -> None:
    full, mtp = (load_gate("mt-bench", profile=profile) for profile in ("full", "mtp"))
    assert mtp.measurement_hash == full.measurement_hash
    assert (mtp.spec.rules, mtp.spec.repeats) == (full.spec.rules, full.spec.repeats)
    assert (full.spec.validity.speculates, mtp.spec.validity.speculates) == (False, True)
    assert "must speculate" in mtp.spec.title


def test_overlay_merges_rules_by_name_and_keeps_the_others(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    spec = load_gate("small", profile="tiny", directory=tmp_path).spec
    assert [rule.name for rule in spec.rules] == ["ttft", "failures"]
    assert (spec.rules[0].margin, spec.rules[0].session_cv) == (0.5, 0.01)  # type: ignore[union-attr]
    assert (spec.request.max_tokens, spec.request.deadline_s) == (1, 10.0)


def test_override_reaches_a_rule_by_name_and_by_index() -> None:
    by_name = shipped(None, "rules.ttft.margin=1e-2")
    assert by_name == shipped(None, "rules[0].margin=0.01")
    assert by_name.spec.rules[0].margin == 0.01  # type: ignore[union-attr]


def test_override_adds_a_key_to_extra_body() -> None:
    assert shipped(None, "request.extra_body.top_k=1").spec.request.extra_body == {"top_k": 1}


def test_a_path_is_loaded_as_well_as_a_name(tmp_path: Path) -> None:
    assert load_gate(str(write(tmp_path, SMALL))).spec.name == "small"


def test_hash_covers_what_is_measured_and_nothing_that_only_judges() -> None:
    smoke = shipped("smoke")
    same = load_gate(
        "long-context",
        profile="smoke",
        repeats=7,
        overrides=["rules.ttft.margin=0.5", "validity.machine_drift=0.5", "request.deadline_s=1"],
        directory=GATES,
    )
    assert same.spec.repeats.count == 7
    assert same.measurement_hash == smoke.measurement_hash
    for change in ("request.salt=false", "seed=2", "matrix.concurrency=[1]", "request.max_tokens=17"):
        assert shipped("smoke", change).measurement_hash != smoke.measurement_hash, change


def test_effective_gate_survives_its_json() -> None:
    gate = shipped("smoke", "request.salt=false")
    assert effective_from_dict(json.loads(json.dumps(gate.to_dict()))) == gate


def test_stored_gate_of_another_version_is_refused_with_advice() -> None:
    data = shipped("smoke").to_dict()
    data["spec"]["request"]["gone"] = 1
    with pytest.raises(SpecError, match="measure it again"):
        effective_from_dict(data)


def test_wrong_value_names_line_value_and_range(tmp_path: Path) -> None:
    text = SMALL.replace("margin: 0.05", "margin: abc")
    assert mistake(tmp_path, text) == (
        "small.yaml:16: rules[0].margin: 'abc' is not a number; allowed: a number above 0 and of at most 1"
    )


def test_unknown_key_lists_the_allowed_ones_and_guesses(tmp_path: Path) -> None:
    message = mistake(tmp_path, SMALL.replace("max_tokens: 4", "max_token: 4"))
    unknown, missing = sorted(message.splitlines())[::-1]
    assert unknown.startswith("small.yaml:7: request: unknown key 'max_token'; allowed: endpoint, max_tokens,")
    assert unknown.endswith("did you mean 'max_tokens'?")
    assert missing.startswith("small.yaml:7: request.max_tokens: missing; allowed: a whole number")


def test_mistake_inside_an_overlay_names_the_line_of_the_overlay(tmp_path: Path) -> None:
    text = SMALL.replace("margin: 0.5\n", "margin: 7\n")
    assert mistake(tmp_path, text, profile="tiny").startswith("small.yaml:25: rules[0].margin: 7 is out of range")
    assert load_gate("small", directory=tmp_path).profile == "full"


def test_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    wrong = mistake(tmp_path, SMALL, overrides=["rules.ttft.margin=abc"])
    assert wrong.startswith("--set rules.ttft.margin=abc: rules[0].margin: 'abc' is not a number")
    unknown = mistake(tmp_path, SMALL, overrides=["reqest.salt=false"])
    assert unknown.startswith("--set reqest.salt=false: unknown key 'reqest'")
    assert unknown.endswith("did you mean 'request'?")
    assert mistake(tmp_path, SMALL, repeats=0).startswith("--repeats 0: repeats.count: 0 is out of range")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("salt", "needs the form PATH=VALUE"),
        ("=1", "needs the form PATH=VALUE"),
        ("rules.tpot.margin=1", "rules has no item 'tpot'; allowed: ttft, failures"),
        ("rules[9].margin=1", "rules has no item '9'"),
        ("request.max_tokens.x=1", "request.max_tokens is a single value"),
        ("matrix.concurrency=[1,", "not valid YAML"),
        ("request.thinking=no", "'no' is not true or false or null"),
        ("request.max_tokens=true", "true is not a whole number"),
        ("request.endpoint=chatt", "did you mean 'chat'?"),
        ("request.extra_body={a: .nan}", "no JSON numbers"),
        ("request.extra_body.stream=false", "stream is set by the gate itself"),
        ("matrix.concurrency=[2, 2]", "2 stands in the list twice"),
        ("matrix.concurrency=[]", "[] does not fit"),
        ("rules.ttft.kind=ratoi", "the kind 'ratoi' is not known; allowed: agreement, geomean_ratio, limit, "),
        ("workload=long_contxt", "'long_contxt' is not known; allowed: gsm8k, "),
        ("workload=long_contxt", "; did you mean 'long_context'?"),
        ("workload=3", "3 is not known; allowed: gsm8k, "),
        ("options.x=1", "options: unknown key 'x'"),
        ("matrix.words=[1]", "matrix: unknown key 'words'; allowed: prompt_tokens, concurrency"),
        ("rules.ttft.session_cv=.nan", "NaN is out of range"),
    ],
)
def test_bad_override_is_told_in_words(tmp_path: Path, override: str, part: str) -> None:
    message = mistake(tmp_path, SMALL, overrides=[override])
    assert message.startswith(f"--set {override}: ")
    assert part in message


def test_two_rules_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    message = mistake(tmp_path, SMALL, overrides=["rules.failures.name=ttft"])
    assert message == "small.yaml:13: rules: two rules are named ttft; every rule needs its own name"


@pytest.mark.parametrize(
    "rule",
    [
        "{name: ended, kind: paired_items, score: v1-jasl, margin: 0.1, early_stop: true}",
        "{name: ended, kind: score, score: v1-jasl, threshold: 0.5, early_stop: true}",
    ],
)
def test_an_early_stop_where_cells_are_no_batches_of_items_is_a_mistake(rule: str) -> None:
    """Nobody knows there how many items are to come, so that each look would spend the whole error rate."""
    with pytest.raises(SpecError) as caught:
        load_gate("toolcall-15", directory=GATES, overrides=[f"rules=[{rule}]"])
    (line,) = str(caught.value).splitlines()
    assert "rules: ended: early_stop works only where cells are batches of items" in line
    assert load_gate("gsm8k", directory=GATES).spec.matrix.items() == 1319  # has one, and may


def test_key_given_twice_is_a_mistake_that_names_both_lines(tmp_path: Path) -> None:
    message = mistake(tmp_path, SMALL.replace("seed: 1\n", "seed: 1\ntitle: Again\n"))
    assert message == "small.yaml:6: title: the key stands here twice, first in line 2"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "must be a mapping"),
        ("- a\n", "must be a mapping"),
        ("name: [1\n", "not valid YAML"),
        ("a: &x 1\nb: *x\n", "small.yaml:1: an alias"),
        ("a: &x [*x]\n", "an alias"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("a: {<<: {b: 1}}\n", "merge keys"),
        ("a: !!binary aGk=\n", "small.yaml:1: the tag !!binary is not allowed"),
        ("a: !!int abc\n", "small.yaml:1: 'abc' cannot be read as int"),
        ("a: \x00\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
    ],
)
def test_broken_yaml_is_a_spec_error(tmp_path: Path, text: str, part: str) -> None:
    assert part in mistake(tmp_path, text)


def test_profiles_must_be_mappings(tmp_path: Path) -> None:
    base = SMALL[: SMALL.index("profiles:")]
    assert "small.yaml:20: profiles: must be a mapping" in mistake(tmp_path, base + "profiles: [a]\n")
    assert "small.yaml:21: profiles.a: must be a mapping" in mistake(tmp_path, base + "profiles:\n  a: 3\n")


def test_unknown_profile_and_gate_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert mistake(tmp_path, SMALL, profile="tinny") == (
        "small.yaml: no profile 'tinny'; allowed: full, tiny; did you mean 'tiny'?"
    )
    with pytest.raises(SpecError, match=r"no gate 'smal' in .*known: small; did you mean 'small'\?"):
        load_gate("smal", directory=tmp_path)
    with pytest.raises(SpecError, match="no such gate file"):
        load_gate(str(tmp_path / "none.yaml"))


def test_name_must_be_the_file_name(tmp_path: Path) -> None:
    write(tmp_path, SMALL, "other")
    with pytest.raises(SpecError, match=r":1: name: 'small' must be the file's name; allowed: 'other'"):
        load_gate("other", directory=tmp_path)
