"""Does a value fit? The small language in which scenario files describe arguments and answers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class Model(BaseModel):
    """Strict, frozen, nothing unknown: the base of all scenario data."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Match(Model):
    """What a value must be. Every key that is given must hold; text is compared without regard to case.

    Only text has text: an argument that is a number, a list or missing matches none of the text keys.
    """

    contains: Words | None = None
    """Has at least one of these."""
    contains_all: Words | None = None
    """Has every one of these."""
    equals: Words | None = None
    """Is one of these, apart from spaces around it."""
    starts_with: Words | None = None
    """Begins with one of these, apart from spaces around it; case counts."""
    digits: Annotated[str, Field(pattern=r"^[0-9.]+$")] | None = None
    """Has this number as part of its text once all commas are gone (so 30 is found in 130 as well)."""
    items: Words | None = None
    """Is a list, and for each of these some text in it contains it."""
    exact: str | int | None = None
    """Is exactly this, type and all."""
    number: int | float | None = None
    """Is this number, or text that reads as it."""
    absent: Literal[True] | None = None
    """Is not given: missing, null or empty text."""
    any_of: Annotated[list[Match], Field(min_length=2)] | None = None
    """Fits at least one of these."""

    @model_validator(mode="after")
    def _says_something(self) -> Match:
        if not self.model_fields_set:
            raise ValueError(f"a match needs at least one of {', '.join(type(self).model_fields)}")
        return self


def matches(match: Match, value: Any) -> bool:
    """Whether ``value`` (any JSON value, or None for an argument not given) fits ``match``."""
    return all(_holds(key, getattr(match, key), value) for key in match.model_fields_set)


def _holds(key: str, wanted: Any, value: Any) -> bool:
    match key:
        case "exact":
            return not isinstance(value, bool) and bool(value == wanted)
        case "number":
            return bool(_as_number(value) == wanted)
        case "absent":
            return value is None or value == ""
        case "items":
            texts = [item.casefold() for item in value if isinstance(item, str)] if isinstance(value, list) else []
            return all(any(word.casefold() in text for text in texts) for word in wanted)
        case "any_of":
            return any(matches(option, value) for option in wanted)
    return isinstance(value, str) and _text_holds(key, wanted, value)


def _text_holds(key: str, wanted: Any, value: str) -> bool:
    text = value.casefold()
    match key:
        case "contains":
            return any(word.casefold() in text for word in wanted)
        case "contains_all":
            return all(word.casefold() in text for word in wanted)
        case "equals":
            return text.strip() in {word.casefold() for word in wanted}
        case "starts_with":
            return value.strip().startswith(tuple(wanted))
        case "digits":
            return str(wanted) in value.replace(",", "")
    raise AssertionError(f"the match key {key} has no meaning")


def _as_number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            number = float(value.strip())
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def describe(match: Match) -> str:
    """The match in words, for reasons: ``contains 'berlin' or '柏林'``."""
    parts = [_words(key, getattr(match, key)) for key in type(match).model_fields if key in match.model_fields_set]
    return " and ".join(parts)


def _words(key: str, wanted: Any) -> str:
    match key:
        case "exact" | "number":
            return f"is {wanted!r}"
        case "absent":
            return "is left out"
        case "any_of":
            return " or ".join(describe(option) for option in wanted)
        case "digits":
            return f"has the number {wanted}"
        case "contains_all" | "items":
            return "has " + " and ".join(map(repr, wanted))
    verb = {"contains": "contains", "equals": "is", "starts_with": "starts with"}[key]
    return f"{verb} " + " or ".join(map(repr, wanted))
