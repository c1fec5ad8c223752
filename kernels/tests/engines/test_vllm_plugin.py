"""The entry point in a process of its own: a package with vLLM's names and signatures, loaded as vLLM loads plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ds4_kernels.engines import vllm

RECORD = json.loads((Path(__file__).parent / "vllm_signatures.json").read_text())
PROCESS = """
import importlib, json, sys
from importlib.metadata import entry_points
for entry in entry_points(group="vllm.general_plugins"):
    if entry.name == "ds4_kernels":
        entry.load()()
early = [name for name in sys.modules if name.startswith("vllm.")]
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
import torch
print(json.dumps({"early": early, "cuda": torch.cuda.is_initialized()}))
"""


def write_engine(root: Path, version: str, record: dict[str, list[str]]) -> list[str]:
    """A package ``vllm`` and its distribution with every function of the record; returns the module names."""
    modules: dict[str, dict[str, list[str]]] = {}
    for target, names in record.items():
        module, _, path = target.partition(":")
        modules.setdefault(module, {})[path] = names
    for module, functions in modules.items():
        folder = root.joinpath(*module.split("."))
        folder.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for path, names in functions.items():
            given = ", ".join({"args": "*args", "kwargs": "**kwargs"}.get(name, name) for name in names)
            *outer, last = path.split(".")
            if outer and f"class {outer[0]}:" not in lines:
                lines.append(f"class {outer[0]}:")
            lines.append(f"{'    ' if outer else ''}def {last}({given}): return 'engine'")
        lines.sort(key=lambda line: not line.startswith("def"))  # functions first: methods stay behind their class
        folder.with_suffix(".py").write_text("\n".join(lines) + "\n")
    for folder in {
        parent for module in modules for parent in root.joinpath(*module.split(".")).parents if parent != root
    }:
        if root in folder.parents:
            (folder / "__init__.py").touch()
    distribution(root, "vllm", f"{version}+cu130", "")
    distribution(root, "ds4_kernels_test", "0.1.0", f"[vllm.general_plugins]\nds4_kernels = {vllm.__name__}:register\n")
    return list(modules)


def distribution(root: Path, name: str, version: str, entries: str) -> None:
    info = root / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entries)


def start(root: Path, modules: list[str], **settings: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Run the process; (what it printed, its report, stderr)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DS4_KERNELS")}
    paths = os.pathsep.join([str(root), *(path for path in sys.path if path)])
    environment = {**kept, "PYTHONPATH": paths, "DS4_KERNELS_REPORT": str(root / "reports"), **settings}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, json.dumps(modules)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (root / "reports").glob("*.json")
    return json.loads(done.stdout), json.loads(path.read_text()), done.stderr


@pytest.mark.parametrize("version", ["0.25.0", "0.33.0"])
def test_every_hook_of_a_version_is_installed(tmp_path: Path, version: str) -> None:
    modules = write_engine(tmp_path, version, RECORD[version])
    printed, report, log = start(tmp_path, modules, DS4_KERNELS="force", DS4_KERNELS_STRICT="1")
    assert printed == {"early": [], "cuda": False}
    assert (report["version"], report["table"]) == (version, version)
    assert {hook["state"] for hook in report["hooks"]} == {"installed"}
    assert len(report["hooks"]) == len(vllm.table()[version])
    count = len(report["hooks"])
    assert log == f"ds4-kernels: {count} of {count} hooks for vllm {version} (DS4_KERNELS=force)\n"


def test_a_changed_engine_keeps_its_own_op_and_starts(tmp_path: Path) -> None:
    target = "vllm.models.deepseek_v4.nvidia.flashmla:flash_mla_with_kvcache"
    modules = write_engine(tmp_path, "0.25.0", {**RECORD["0.25.0"], target: ["q", "k_cache", "new"]})
    _, report, log = start(tmp_path, modules, DS4_KERNELS="force")
    skipped = [hook["target"] for hook in report["hooks"] if hook["state"] == "skipped"]
    assert skipped == [target] and log.count("keeps the engine's own op: signature (q, k_cache, new)") == 1
