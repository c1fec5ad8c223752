"""``expected.yaml``: which serves are measured, and what must be said about each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ds4bench.errors import SpecError
from ds4bench.spec.base import SpecModel
from ds4bench.trust.proxy_faults import choose

FILE = Path(__file__).with_name("expected.yaml")


class Row(SpecModel):
    """One serve. ``proxy`` None: the serve itself, an empty list: through a proxy without faults."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    engine: list[str] = Field(default_factory=list)
    proxy: list[str] | None = None
    serve_args: list[str] = Field(default_factory=list)
    alone: bool = False
    expected: dict[str, list[str]] = Field(default_factory=dict)
    holds: list[str] | Literal["all"] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_something(self) -> Row:
        if not self.expected and not self.holds:
            raise ValueError(f"row {self.name}: needs expected or holds")
        if both := set(self.expected) & set(self.expected if self.holds == "all" else self.holds):
            raise ValueError(f"row {self.name}: {', '.join(sorted(both))} cannot both hold and be expected to fail")
        choose(self.proxy or [])
        return self

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken."""
        return not self.engine and not self.proxy

    @property
    def route(self) -> str:
        """Runs are compared with a baseline that came the same way."""
        return " ".join(["direct" if self.proxy is None else "proxy", *self.serve_args])

    def named_gates(self) -> list[str]:
        """The gates that the row says something about; none for "all"."""
        return [*self.expected, *([] if self.holds == "all" else self.holds)]

    def must_hold(self, gate: str) -> bool:
        """Whether the gate must neither FAIL nor be INVALID."""
        return self.holds == "all" or gate in self.holds


class Table(SpecModel):
    """The whole file. ``repeats`` of gates that compare times, where the suite's own leave too much to chance."""

    repeats: dict[str, Annotated[int, Field(ge=3)]] = Field(default_factory=dict)
    rows: Annotated[list[Row], Field(min_length=1)]


def load(path: Path = FILE) -> list[Row]:
    """The rows. Raises SpecError that names the file and the mistake."""
    return table(path).rows


def table(path: Path = FILE) -> Table:
    """The whole file. Raises SpecError that names it and the mistake."""
    try:
        found = Table.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError, SpecError) as error:
        raise SpecError(f"{path}: {error}") from None
    names = [row.name for row in found.rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"{path}: row {twice[0]} stands there twice")
    return found
