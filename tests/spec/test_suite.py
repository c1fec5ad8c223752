"""Suite files: names alone are enough, mistakes are told with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4bench.errors import SpecError
from ds4bench.spec.load import list_gates, load_gate
from ds4bench.spec.suite import list_suites, load_suite

ROOT = Path(__file__).parents[2]


def mistake(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_suite(str(path))
    return str(caught.value).replace(str(tmp_path), "")


def test_a_gate_may_be_just_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntitle: t\nprofile: smoke\ngates:\n  - random\n  - {gate: soak, profile: full, may_skip: true}\n"
    )
    suite = load_suite(str(path))
    assert [(entry.gate, suite.profile_of(entry), entry.may_skip) for entry in suite.gates] == [
        ("random", "smoke", False),
        ("soak", "full", True),
    ]


@pytest.mark.parametrize("suite", list_suites(ROOT / "gates" / "suites"), ids=lambda suite: suite.name)
def test_every_shipped_suite_names_gates_that_exist_in_profiles_that_they_have(suite: object) -> None:
    for entry in suite.gates:  # type: ignore[attr-defined]
        profile = suite.profile_of(entry)  # type: ignore[attr-defined]
        gate = load_gate(entry.gate, profile=profile, overrides=entry.overrides, directory=ROOT / "gates")
        assert gate.spec.matrix.cells()


def test_smoke_and_promotion_hold_every_gate() -> None:
    names = {gate.name for gate in list_gates(ROOT / "gates")}
    for suite in ("smoke", "promotion", "promotion-mtp"):
        assert {entry.gate for entry in load_suite(suite, directory=ROOT / "gates" / "suites").gates} == names


def test_a_promotion_with_mtp_differs_in_the_profiles_that_are_made_for_it() -> None:
    plain, mtp = (load_suite(name, directory=ROOT / "gates" / "suites") for name in ("promotion", "promotion-mtp"))
    lines = [(suite.profile_of(entry), entry.gate) for suite in (plain, mtp) for entry in suite.gates]
    assert set(lines[len(plain.gates) :]) - set(lines[: len(plain.gates)]) == {("mtp", "mt-bench"), ("mtp", "gsm8k")}


def test_decoding_in_the_smoke_suite_begins_behind_prompts_of_which_nine_tenths_are_whole_blocks() -> None:
    """Only whole blocks are cached, of 256 tokens on the embedded engine: shorter prompts make the gate INVALID (primed)."""
    suite = load_suite("smoke", directory=ROOT / "gates" / "suites")
    entry = next(entry for entry in suite.gates if entry.gate == "long-context-decode")
    gate = load_gate(entry.gate, profile=suite.profile, overrides=entry.overrides, directory=ROOT / "gates")
    lengths = [cell.params["prompt_tokens"] for cell in gate.spec.matrix.cells()]
    assert lengths
    assert all((length - 1) // 256 * 256 >= 0.9 * length for length in lengths)


def test_mistakes_name_file_line_and_fix(tmp_path: Path) -> None:
    head = "name: mine\ntitle: t\n"
    assert mistake(tmp_path, head + "gates:\n  - random\n  - {gate: a, repeat: 3}\n").startswith(
        "/mine.yaml:5: gates.1.repeat: unknown key; allowed: gate, profile"
    )
    assert mistake(tmp_path, head + "gates: []\n").startswith("/mine.yaml:3: gates: ")
    assert mistake(tmp_path, head).startswith("/mine.yaml:1: gates: missing")
    assert "stands in the suite twice" in mistake(tmp_path, head + "gates: [random, random]\n")
    assert mistake(tmp_path, "name: other\ntitle: t\ngates: [random]\n").startswith(
        "/mine.yaml:1: name: 'other' must be"
    )
    assert mistake(tmp_path, "- a\n").startswith("/mine.yaml:1: a suite file must be a mapping")


def test_an_unknown_suite_lists_those_there_are() -> None:
    known = ", ".join(suite.name for suite in list_suites(ROOT / "gates" / "suites"))
    with pytest.raises(SpecError, match=f"known: {known}; did you mean 'smoke'"):
        load_suite("smke", directory=ROOT / "gates" / "suites")
