"""Suites: which gates make a promotion, in order. ``gates/suites/NAME.yaml``; an entry may be just a gate's name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from yaml.nodes import Node

from ds4bench.errors import SpecError
from ds4bench.spec import files
from ds4bench.spec.base import SpecModel
from ds4bench.spec.document import child, to_plain, where
from ds4bench.spec.load import FULL
from ds4bench.spec.mistakes import plain_line


class SuiteEntry(SpecModel):
    """One gate of a suite. ``profile`` defaults to the suite's, ``overrides`` are those of ``--set``.

    ``may_skip``: a SKIPPED gate then does not keep the suite from a PASS. ``serve_args``: flags that only this gate's serve
    needs; the gate then gets a serve of its own. ``data`` is what ``--data`` names.
    """

    gate: Annotated[str, Field(min_length=1)]
    profile: str | None = None
    overrides: list[str] = Field(default_factory=list)
    repeats: Annotated[int, Field(ge=1)] | None = None
    may_skip: bool = False
    serve_args: list[str] = Field(default_factory=list)
    data: str | None = None


class SuiteSpec(SpecModel):
    """One suite. A gate may stand in it several times, with another profile each."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Annotated[str, Field(min_length=1)]
    profile: str = FULL
    gates: Annotated[list[SuiteEntry], Field(min_length=1)]

    @field_validator("gates", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"gate": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _lines_differ(self) -> SuiteSpec:
        lines = [(entry.gate, self.profile_of(entry)) for entry in self.gates]
        twice = sorted({f"{gate} ({profile})" for gate, profile in lines if lines.count((gate, profile)) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands in the suite twice; give one of them another profile")
        return self

    def profile_of(self, entry: SuiteEntry) -> str:
        """The profile that an entry is run with."""
        return entry.profile or self.profile


def load_suite(name_or_path: str, *, directory: Path | None = None) -> SuiteSpec:
    """The suite by name or by path of its file. Raises SpecError: one line a mistake, with file and line."""
    path = files.find(name_or_path, "suite", _suites_dir(directory))
    root = files.read(path, "suite", "name, title, gates")
    try:
        suite = SuiteSpec.model_validate(to_plain(root))
    except ValidationError as error:
        raise SpecError("\n".join(_explain(item, root) for item in error.errors(include_url=False))) from None
    if suite.name != path.stem:
        node = child(root, "name") or root
        raise SpecError(f"{where(node)}: name: {suite.name!r} must be the file's name; allowed: {path.stem!r}")
    return suite


def list_suites(directory: Path | None = None) -> list[SuiteSpec]:
    """All suites by name."""
    paths = sorted(_suites_dir(directory).glob("*.yaml"), key=lambda path: path.stem)  # by path "-" is before "."
    return [load_suite(str(path)) for path in paths]


def _suites_dir(directory: Path | None) -> Path:
    if directory is not None:
        return directory
    from ds4bench.paths import gates_dir

    return gates_dir() / "suites"


def _explain(item: Any, root: Node) -> str:
    return plain_line(item, root, SuiteEntry if len(item["loc"]) > 1 else SuiteSpec)
