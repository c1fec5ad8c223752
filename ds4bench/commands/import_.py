"""``ds4bench import``: another tool's result, kept to be shown beside a run."""

from __future__ import annotations

from pathlib import Path

from ds4bench.paths import gates_dir
from ds4bench.report.console import stdout
from ds4bench.spec.files import find
from ds4bench.store.foreign import read_foreign, save_foreign


def import_file(file: str, name: str | None, gate: str | None, hardware: str) -> None:
    """Read the file, keep its rows, say how to show them. Raises StoreError for a file of no known tool, SpecError
    for a gate that there is not."""
    if gate is not None:
        find(gate, "gate", gates_dir())
    path = Path(file)
    published = read_foreign(path, name=name, gate=gate, hardware=hardware)
    kept = save_foreign(published)
    rows = sum(len(table) for table in published.tables.values())
    gates = ", ".join(published.tables)
    stdout().print(
        f"{rows} rows of {published.engine} for gate {gates} kept in {kept}; "
        f"show them with: ds4bench gate {next(iter(published.tables))} --beside {published.source}",
        markup=False,
        soft_wrap=True,
    )
