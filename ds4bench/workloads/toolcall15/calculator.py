"""Arithmetic with bounds: the calculator that a model may call. Text in, number or None out, never ``eval``.

The grammar is the benchmark's: digits, spaces, ``( ) + - * / . %`` after commas are removed, which makes ``**`` and ``//``
expressions too; ``%`` is the remainder. Values follow Python's arithmetic on doubles.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_CHARACTERS = 200
"""Longest expression; a model's are under 40."""
MAX_DEPTH = 50
"""Deepest nesting of the expression."""
_ALLOWED = re.compile(r"[0-9\s()+\-*/.%]+", re.ASCII)
_EXACT = 2**53  # integers up to here are the same number as a double
_LIMIT = 1e308
_Number = int | float

_BINARY: dict[type[ast.operator], Callable[[_Number, _Number], _Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _BadExpressionError(Exception):
    """The expression has no value here."""


def calculate(expression: str) -> int | float | None:
    """The value of an expression: an int where it is whole and small enough to be exact, else a float.

    None if it is no expression, has no finite real value, or is beyond the bounds; that is known at once, whatever
    the expression (``9**9**9`` is never computed).
    """
    text = " ".join(expression.replace(",", "").split())
    if len(text) > MAX_CHARACTERS or not _ALLOWED.fullmatch(text):
        return None
    try:
        value = _value(ast.parse(text, mode="eval").body, 0)
    except (_BadExpressionError, SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None
    return int(value) if value == int(value) and abs(value) <= _EXACT else float(value)


def _value(node: ast.expr, depth: int) -> _Number:
    if depth > MAX_DEPTH:
        raise _BadExpressionError
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, depth + 1), _value(node.right, depth + 1)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _BINARY:
            return _bounded(_BINARY[type(node.op)](left, right))
    raise _BadExpressionError


def _power(base: _Number, exponent: _Number) -> _Number:
    return _bounded(math.pow(base, exponent))  # doubles: constant time, OverflowError instead of a huge number


def _bounded(value: object) -> _Number:
    """Every intermediate value is small, so that no step can be slow."""
    if not isinstance(value, int | float) or not abs(value) <= _LIMIT:
        raise _BadExpressionError
    return value
