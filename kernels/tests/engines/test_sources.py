"""Every hook of every table against the signatures of the engine versions it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ds4_kernels.engines import sources, survey, vllm
from ds4_kernels.engines.hook import Hook

RECORD = Path(__file__).parent / "vllm_signatures.json"
"""Parameters read off the published wheels: ``{version: {target: [names]}}``. ``--record`` of this file writes it."""


def rows() -> list[tuple[str, Hook]]:
    return [(version, hook) for version, hooks in vllm.table().items() for hook in hooks]


IDS = [f"{version}-{hook.name}" for version, hook in rows()]


@pytest.mark.parametrize(("version", "hook"), rows(), ids=IDS)
def test_a_hook_expects_what_the_published_wheel_has(version: str, hook: Hook) -> None:
    recorded = json.loads(RECORD.read_text())
    assert list(hook.parameters) == recorded[version][hook.target]


@pytest.mark.parametrize(("version", "hook"), rows(), ids=IDS)
def test_a_hook_fits_the_unpacked_wheel(vllm_sources: Callable[[str], Path], version: str, hook: Hook) -> None:
    assert survey.problem(hook, vllm_sources(version)) == ""


def test_every_hook_names_an_op_once_and_both_versions_are_there() -> None:
    from ds4_kernels import ops

    assert set(vllm.table()) == {"0.25.0", "0.33.0"}
    for hooks in vllm.table().values():
        assert {hook.op for hook in hooks} <= set(ops.TABLE)
        assert len({hook.target for hook in hooks}) == len(hooks)


def test_the_entry_point_leads_to_the_plugin() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["vllm.general_plugins"]["ds4_kernels"]
    module, _, name = target.partition(":")
    assert (module, getattr(vllm, name)) == (vllm.__name__, vllm.register)


def test_names_are_found_through_imports_conditions_and_factories(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("from .real import inner as shown\n")
    (package / "real.py").write_text(
        "if fast():\n    def inner(a, /, b, *rest, c=1, **more): ...\n"
        "def make(n):\n    def wrapper(*args, **kwargs): ...\n    return wrapper\nlazy = make(1)\n"
        "class Layer:\n    def forward(self, x): ...\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg import hidden\n"
    )
    assert sources.parameters(tmp_path, "pkg:shown") == ("a", "b", "rest", "c", "more")
    assert sources.parameters(tmp_path, "pkg.real:lazy") == ("args", "kwargs")
    assert sources.parameters(tmp_path, "pkg.real:Layer.forward") == ("self", "x")
    for target in ("pkg.real:hidden", "pkg.real:Layer.gone", "pkg.real:None.forward", "pkg.none:f"):
        with pytest.raises(sources.SourceError):
            sources.parameters(tmp_path, target)


def test_an_interpreter_without_the_engine_is_named() -> None:
    import sys

    with pytest.raises(RuntimeError, match="has no vllm_that_is_not_there"):
        survey.locate(sys.executable, "vllm_that_is_not_there", "vllm.general_plugins")
    with pytest.raises(RuntimeError, match="cannot run /nowhere/python"):
        survey.locate("/nowhere/python", "vllm", "vllm.general_plugins")


def test_an_installed_distribution_is_located_without_importing_it(tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    (tmp_path / "boom").mkdir()
    (tmp_path / "boom/__init__.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "boom-0.25.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boom\nVersion: 0.25.0+cu130\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nds4_kernels = x:y\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = survey.locate(sys.executable, "boom", "vllm.general_plugins")
    assert (found.version, found.root) == ("0.25.0", tmp_path) and "ds4_kernels" in found.plugins


def record(pairs: list[str]) -> None:
    """``python test_sources.py 0.25.0=DIR 0.33.0=DIR`` writes the record from unpacked wheels."""
    roots = {version: Path(folder) for version, _, folder in (pair.partition("=") for pair in pairs)}
    found: dict[str, dict[str, list[str]]] = {}
    for version, hook in rows():
        found.setdefault(version, {})[hook.target] = list(sources.parameters(roots[version], hook.target))
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    import sys

    record(sys.argv[1:])
