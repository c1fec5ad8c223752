"""Published measurements of other people's machines: shown beside a run, never deciding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ds4bench.errors import StoreError
from ds4bench.paths import imports_dir, published_dir


@dataclass(frozen=True)
class Published:
    """One source. ``tables`` maps a gate's name to its rows; keys of a row carry their units."""

    source: str
    title: str
    date: str
    hardware: str
    engine: str
    tables: dict[str, list[dict[str, Any]]]


def load_published(source: str) -> Published:
    """Read an import of this user or ``results/published/SOURCE.yaml``.

    Raises StoreError that lists the sources for an unknown one.
    """
    import yaml

    folders = (imports_dir(), published_dir())
    path = next((p for folder in folders if (p := folder / f"{source}.yaml").is_file()), None)
    if path is None:
        known = ", ".join(sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})) or "none"
        raise StoreError(f"no published source {source!r}; there are: {known}")
    try:
        data = yaml.safe_load(path.read_text())
        return Published(**data)
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a published table: {error}") from error
