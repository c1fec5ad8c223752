"""What scenario files can demand of a conversation: conditions and outcomes. ``rules`` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ds4bench.workloads.toolcall15.matching import Match, Model

Name = Annotated[str, Field(pattern=r"^[a-z_]+$")]
Count = Annotated[int, Field(ge=0)]


class CallsCheck(Model):
    """How many calls there are to ``tool`` (any tool without it) whose arguments fit ``with``.

    Without ``min`` and ``max``: at least one.
    """

    tool: Name | None = None
    arguments: dict[str, Match] = Field(alias="with", default_factory=dict)
    min: Count | None = None
    max: Count | None = None

    @property
    def at_least(self) -> int:
        """The lower bound."""
        return self.min if self.min is not None else 1 if self.max is None else 0


class FirstCheck(Model):
    """The first call to ``tool`` exists and its arguments fit ``with``."""

    tool: Name
    arguments: dict[str, Match] = Field(alias="with", default_factory=dict)


class SomeCheck(Model):
    """At least ``min`` of the conditions hold."""

    min: Annotated[int, Field(ge=1)]
    of: Annotated[list[Condition], Field(min_length=1)]


class Condition(Model):
    """One thing that must be so. Exactly one key is given."""

    calls: CallsCheck | None = None
    first: FirstCheck | None = None
    only: Annotated[list[Name], Field(min_length=1)] | None = None
    """There are calls, and all of them are to these tools."""
    order: Annotated[list[Name], Field(min_length=2, max_length=2)] | None = None
    """Both are called, and the first call of the one is in an earlier turn than the first call of the other."""
    same_turn: Annotated[list[Name], Field(min_length=2)] | None = None
    """Some turn has calls to all of these."""
    answer: Match | None = None
    """The final answer fits."""
    transcript: Match | None = None
    """The text of all turns together fits."""
    some: SomeCheck | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Condition:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a condition needs exactly one of {', '.join(type(self).model_fields)}")
        return self


class Outcome(Model):
    """So many points if all conditions hold. A list of outcomes is read from the top, the first that holds counts."""

    points: Literal[0, 1, 2]
    reason: Annotated[str, Field(min_length=1)]
    all: list[Condition] = Field(default_factory=list)


class Note(Model):
    """Something worth saying beside the points."""

    text: str
    when: Condition


def named(conditions: list[Condition]) -> Iterator[tuple[str, str | None]]:
    """(tool, argument) pairs that the conditions speak of; the argument is None for the tool itself."""
    for condition in conditions:
        for tool in [*(condition.only or []), *(condition.order or []), *(condition.same_turn or [])]:
            yield tool, None
        for check in (condition.calls, condition.first):
            if check is not None and check.tool is not None:
                yield check.tool, None
                yield from ((check.tool, argument) for argument in check.arguments)
        if condition.some is not None:
            yield from named(condition.some.of)
