"""Files of gates and suites: found by name or path, read into a tree that knows its lines."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from yaml.nodes import MappingNode

from ds4bench.errors import SpecError, reason_of
from ds4bench.spec.document import compose
from ds4bench.spec.mistakes import did_you_mean

Kind = Literal["gate", "suite"]


def find(name_or_path: str, kind: Kind, folder: Path) -> Path:
    """The file of a name in ``folder``, or the path itself. Raises SpecError that lists the names there are."""
    as_path = Path(name_or_path)
    if as_path.suffix in (".yaml", ".yml") or len(as_path.parts) > 1:
        if as_path.is_file():
            return as_path
        raise SpecError(f"{name_or_path}: no such {kind} file; give a path to a YAML file or the name of a {kind}")
    path = folder / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    raise SpecError(
        f"no {kind} {name_or_path!r} in {shown(folder)}; known: {', '.join(names) or 'none'}"
        f"{did_you_mean(name_or_path, names)}"
    )


def read(path: Path, kind: str, keys: str) -> MappingNode:
    """The tree of a file, which must be a mapping; ``keys`` are some of it, for the message. Raises SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{shown(path)}: cannot be read: {reason_of(error)}") from None
    root = compose(text, shown(path))
    if not isinstance(root, MappingNode):
        raise SpecError(f"{shown(path)}:1: a {kind} file must be a mapping with keys such as {keys}")
    return root


def shown(path: Path) -> str:
    """The path as a user would type it: relative to the working directory when it lies below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
