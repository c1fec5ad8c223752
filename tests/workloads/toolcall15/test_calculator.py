"""The calculator computes what arithmetic says and refuses the rest at once."""

from __future__ import annotations

import fractions
import json
import math
import operator
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ds4bench.workloads.toolcall15.calculator import MAX_CHARACTERS, calculate

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
numbers = st.integers(0, 10**6)
trees = st.recursive(
    numbers,
    lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner),
    max_leaves=6,
)


def text_of(tree: object) -> str:
    if isinstance(tree, tuple):
        return f"({text_of(tree[1])} {tree[0]} {text_of(tree[2])})"
    return str(tree)


def value_of(tree: object) -> int:
    if isinstance(tree, tuple):
        return OPERATIONS[tree[0]](value_of(tree[1]), value_of(tree[2]))
    assert isinstance(tree, int)
    return tree


@given(trees)
def test_whole_numbers_are_exact_up_to_two_to_the_53(tree: object) -> None:
    value = calculate(text_of(tree))
    if abs(value_of(tree)) <= 2**53:
        assert value == value_of(tree)
        assert isinstance(value, int)
    else:
        assert value == pytest.approx(value_of(tree), rel=1e-12)


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_division_is_that_of_fractions(top: int, bottom: int) -> None:
    assert calculate(f"({top})/{bottom}") == pytest.approx(float(fractions.Fraction(top, bottom)), abs=1e-12)


@given(st.text("0123456789 ()+-*/.%,\n", max_size=MAX_CHARACTERS + 20))
@example("9**9**9")
@example("9" * 150 + "**" + "9" * 40)
@example("(" * 100 + "1" + ")" * 100)
@example("-" * 199 + "1")
@example("1(2)")
@example("...")
def test_any_text_of_the_alphabet_gives_a_finite_number_or_none(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = calculate(text)
    assert value is None or (type(value) in (int, float) and math.isfinite(value))
    assert json.loads(json.dumps(value)) == value


@given(st.text(max_size=60))
def test_letters_are_never_evaluated(text: str) -> None:
    if any(character.isalpha() or character in "_[]{}=:'\"" for character in text):
        assert calculate(text) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("372,520 * 0.02", 7450.400000000001),
        ("200*15/100", 30),
        ("2 * (3 + 4)", 14),
        ("7 % 4", 3),
        ("7 // 2", 3),
        ("-2 ** 2", -4),
        ("2 ** 0.5", math.sqrt(2)),
        (".5 + 1.", 1.5),
        (" 1\n+ 1 ", 2),
        ("10 ** 20", 1e20),
    ],
)
def test_expressions_that_models_write(expression: str, value: float) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "9**9**9",
            "9**9**9**9**9",
            "10**309",
            "1/0",
            "1%0",
            "0**-1",
            "(-8)**0.5",
            "()",
            "",
            "15% of 200",
            "5%",
            "010",
        ),
        *("1(2)", "(1)(2)", "1 2", "...", "1..2", "0x10", "1e5", "__import__('os')", "lambda: 0", "０", "1" * 201),
    ],
)
def test_what_has_no_value_is_an_error_at_once(expression: str) -> None:
    assert calculate(expression) is None
