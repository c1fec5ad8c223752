"""JSON text of one tool call's arguments, written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn

_WRAPPERS = ("arguments", "input")
_SPACE = " \t\r\n"  # what JSON allows around a value


class ArgumentsWriter:
    """Turns parameters into the text of a JSON object. Every method returns the text that it adds, often none.

    Text never has to be taken back, hence: of two parameters with one name the first counts; a value that is not a
    string comes whole at its end, since until then it may turn out not to be JSON and so a literal.
    ``properties`` are the names in the tool's schema. A lone parameter ``arguments`` or ``input`` that is not among
    them, and that holds an object of only such names, is unwrapped: some replies put all arguments into one.
    """

    def __init__(self, properties: Collection[str] = ()) -> None:
        self._properties = frozenset(properties)
        self._keys: list[str] = []
        self._key = ""
        self._value = ""
        self._is_string = False
        self._dropping = False
        self._wrapper: tuple[str, str, bool] | None = None  # a lone parameter that may be a wrapper: key, value, string
        self._written = False
        self._complete = False

    def begin(self, key: str, *, is_string: bool) -> str:
        """A parameter begins."""
        text = self._keep_wrapper()
        self._key, self._value, self._is_string = key, "", is_string
        self._dropping = self._complete or key in self._keys
        self._keys.append(key)
        return text + self._name(key) + '"' if self._streams else text

    def add(self, text: str) -> str:
        """More of the parameter's value."""
        if self._streams:
            return _escaped(text)
        self._value += text
        return ""

    def end(self) -> str:
        """The parameter ends."""
        if self._streams:
            return '"'
        if self._dropping:
            return ""
        if self._may_be_wrapper:
            self._wrapper = (self._key, self._value, self._is_string)
            return ""
        return self._name(self._key) + _value(self._value)

    def whole(self, text: str) -> str:
        """All arguments at once, as a JSON object; anything else counts as nothing. No parameter came before.

        Parameters that come after an object are dropped.
        """
        if _object(text) is None:
            return ""
        self._complete = True
        return text.strip(_SPACE)

    def close(self) -> str:
        """The call ends. All texts together are a JSON object now."""
        if self._complete:
            return ""
        if self._wrapper is not None:
            inner = self._unwrapped(self._wrapper[1])
            if inner is not None:
                return inner
        return self._keep_wrapper() + ("}" if self._written else "{}")

    @property
    def _may_be_wrapper(self) -> bool:
        wraps = self._key in _WRAPPERS and bool(self._properties) and self._key not in self._properties
        return wraps and len(self._keys) == 1

    @property
    def _streams(self) -> bool:
        return self._is_string and not self._dropping and not self._may_be_wrapper

    def _keep_wrapper(self) -> str:
        if self._wrapper is None:
            return ""
        (key, value, is_string), self._wrapper = self._wrapper, None
        return self._name(key) + (f'"{_escaped(value)}"' if is_string else _value(value))

    def _unwrapped(self, value: str) -> str | None:
        inner = _object(value)
        return value.strip(_SPACE) if inner is not None and inner.keys() <= self._properties else None

    def _name(self, key: str) -> str:
        start = ", " if self._written else "{"
        self._written = True
        return f"{start}{json.dumps(key, ensure_ascii=False)}: "


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _value(text: str) -> str:
    """JSON if it is JSON, as it is written; else the text itself as a string."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text.strip(_SPACE)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
