"""Published measurements of other people's machines: shown beside a run, never deciding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ds4bench.errors import StoreError
from ds4bench.paths import published_dir


@dataclass(frozen=True)
class Published:
    """One source. ``tables`` maps a gate's name to its rows; keys of a row carry their units."""

    source: str
    title: str
    date: str
    hardware: str
    engine: str
    tables: dict[str, list[dict[str, Any]]]

    @property
    def long_context(self) -> list[dict[str, Any]]:
        """Rows of the long-context table."""
        return self.tables.get("long-context", [])


def load_published(source: str) -> Published:
    """Read ``results/published/SOURCE.yaml``. Raises StoreError that lists the sources for an unknown one."""
    import yaml

    path = published_dir() / f"{source}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in published_dir().glob("*.yaml"))) or "none"
        raise StoreError(f"no published source {source!r}; there are: {known}")
    try:
        data = yaml.safe_load(path.read_text())
        return Published(**data)
    except (yaml.YAMLError, TypeError) as error:
        raise StoreError(f"{path}: not a published table: {error}") from error
