"""``ds4-kernels doctor --engine-python P``: which hooks the plugin would install in the engine that P has, and why not.

Two questions are asked. The hooks' functions and signatures are looked up in the engine's source files, which imports
nothing of it. And where P has ds4-kernels, its own plugin is loaded in a P of its own, as an engine would, and says what
it makes of this engine version.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds4_kernels import __version__, env
from ds4_kernels.engines import selection
from ds4_kernels.engines.survey import Engine, Finding, locate, survey

SCHEMA = "ds4-kernels.engine-doctor/1"
GROUPS = {"vllm": "vllm.general_plugins", "sglang": "sglang.srt.plugins"}
"""Entry-point group of the plugins by engine."""
PLUGIN = "ds4_kernels"
_TIMEOUT_S = 180.0
_WIDTH = 100
_LOAD = """
import importlib, importlib.metadata, json, sys
try:
    import torch
    gpus = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
except Exception:
    gpus = None
try:
    version = importlib.metadata.version("ds4-kernels")
except importlib.metadata.PackageNotFoundError:
    version = None
try:
    module = importlib.import_module("ds4_kernels.engines." + sys.argv[1])
except ModuleNotFoundError as error:
    print(json.dumps({"missing": error.name, "version": version, "gpus": gpus}))
    sys.exit()
module.register()
from ds4_kernels.engines import hooks
report = hooks.reports().get(sys.argv[1])
print(json.dumps({"version": version, "report": report.document() if report else None, "gpus": gpus}))
"""


@dataclass(frozen=True)
class Loaded:
    """What the plugin said when it was loaded by that interpreter, switched on. ``version``: of its ds4-kernels, None if not
    installed as a distribution. ``armed``: hooks that wait for their module, None where the plugin could not be loaded.
    ``service``: whether the armed hooks do anything there with DS4_KERNELS as it is now; empty where nothing tells."""

    version: str | None
    said: str
    armed: int | None
    hooks: int | None
    service: str = ""


@dataclass(frozen=True)
class EngineDiagnosis:
    """One engine of that interpreter. ``findings`` are empty where no table knows its version."""

    engine: str
    version: str
    known: tuple[str, ...]
    has_plugin: bool
    loaded: Loaded
    findings: tuple[Finding, ...]


def main(args: argparse.Namespace) -> int:
    """Print it. Returns 0, or 2 where the interpreter does not work or has no engine that is known here."""
    python = _interpreter(args.engine_python)
    if python is None:
        sys.stderr.write(
            f"--engine-python {args.engine_python}: no python there; give the interpreter or its environment\n"
        )
        return 2
    found, missing = diagnose(python)
    if not found:
        none = all(" has no " in reason for reason in missing)
        names = " nor ".join(GROUPS)
        sys.stderr.write(f"{python} has neither {names}: give the engine's own\n" if none else f"{missing[0]}\n")
        return 2
    if args.json:
        document = {"schema": SCHEMA, "ds4_kernels": __version__, "python": python}
        sys.stdout.write(json.dumps({**document, "engines": [asdict(one) for one in found]}, indent=1) + "\n")
    else:
        sys.stdout.write("\n\n".join(text(one, python) for one in found) + "\n")
    return 0


def diagnose(python: str) -> tuple[list[EngineDiagnosis], list[str]]:
    """The engines that an interpreter has, and why it does not have the others."""
    found, missing = [], []
    for name, group in GROUPS.items():
        try:
            found.append(_diagnose_one(locate(python, name, group), python))
        except RuntimeError as error:
            missing.append(str(error))
    return found, missing


def text(found: EngineDiagnosis, python: str) -> str:
    """The diagnosis of one engine for people."""
    lines = [f"{found.engine} {found.version} in {python}", f"  plugin: {_plugin_line(found, python)}"]
    if found.loaded.said:
        lines.append(f"  it says: {found.loaded.said}")
    if found.loaded.service:
        lines.append(f"  in service: {found.loaded.service}")
    if not found.findings:
        known = ", ".join(found.known)
        lines.append(
            f"  no hook would be installed: this ds4-kernels knows {found.engine} {known}, not {found.version}"
        )
        return "\n".join(lines)
    good = [finding for finding in found.findings if not finding.problem]
    bad = [finding for finding in found.findings if finding.problem]
    lines.append(f"  {len(good)} of {len(found.findings)} hooks would be installed:")
    ops = sorted({finding.op for finding in good})
    lines += textwrap.wrap(", ".join(ops), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    if bad:
        lines.append(f"  {len(bad)} would not:")
        lines += [f"    {finding.op}: {finding.target}: {finding.problem}" for finding in bad]
    return "\n".join(lines)


def _diagnose_one(engine: Engine, python: str) -> EngineDiagnosis:
    table = importlib.import_module(f"ds4_kernels.engines.{engine.name}").table()
    return EngineDiagnosis(
        engine=engine.name,
        version=engine.version,
        known=tuple(table),
        has_plugin=PLUGIN in engine.plugins,
        loaded=_load(python, engine.name),
        findings=tuple(survey(table, engine.version, engine.root)),
    )


def _load(python: str, engine: str) -> Loaded:
    """Load the plugin as an engine would, in a process of its own. It arms its hooks and imports no engine module."""
    unset = (env.REPORT, env.STRICT, env.SHADOW)
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment.setdefault(env.MODE, "force")
    try:
        done = subprocess.run(
            [python, "-c", _LOAD, engine],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=environment,
        )
        answer: dict[str, Any] = json.loads((done.stdout.splitlines() or [""])[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        last = error if isinstance(error, (OSError, subprocess.TimeoutExpired)) else _last_line(done.stderr)
        return Loaded(None, f"loading it failed: {last}", None, None)
    service = _service(answer["gpus"])
    if "missing" in answer:
        where = "" if answer["missing"] == PLUGIN else f"{answer['missing']} is missing"
        return Loaded(answer["version"], where, None, None, service)
    report = answer["report"] or {"hooks": []}
    states = [hook["state"] for hook in report["hooks"]]
    said = _last_line(done.stderr).removeprefix("ds4-kernels: ") or report.get("note", "")
    armed = sum(state != "skipped" for state in states)
    return Loaded(answer["version"], said, armed, len(states), service)


def _service(gpus: Sequence[Sequence[int]] | None) -> str:
    """What the mode of this shell comes to on that interpreter's GPUs, which have these compute capabilities."""
    try:
        mode = env.mode()
    except ValueError as error:
        return f"nothing is replaced: {error}"
    if gpus is None:
        return ""
    shown = f"DS4_KERNELS={mode}" if os.environ.get(env.MODE) else f"DS4_KERNELS is not set, which means {mode}"
    devices: list[tuple[int, int] | None] = [*sorted({(major, minor) for major, minor in gpus})] or [None]
    decisions = [selection.decide(mode, device) for device in devices]
    if any(decision.active for decision in decisions):
        off = [decision.reason for decision in decisions if not decision.active]
        return f"{shown}: replaces ops here" + (f", but {off[0]}" if off else "")
    reason = decisions[0].reason if gpus or mode == "off" else "no CUDA GPU is visible"
    return f"{shown}: every op stays the engine's here ({reason})"


def _plugin_line(found: EngineDiagnosis, python: str) -> str:
    """Whether this engine would load the plugin, and what to do where it would not."""
    install = f"{python} -m pip install --no-deps ds4-kernels"
    if not found.has_plugin and found.loaded.armed is None:
        return f"not installed there ({install}); what it would do, by this ds4-kernels {__version__}:"
    if not found.has_plugin:
        return f"importable, but not installed, so {found.engine} does not load it ({install})"
    other = found.loaded.version
    if other != __version__:
        return f"installed, ds4-kernels {other}; what is said of hooks below is of {__version__}"
    return f"installed, ds4-kernels {other}"


def _interpreter(given: str) -> str | None:
    path = Path(given).expanduser()
    path = path / "bin" / "python" if path.is_dir() else path
    return str(path.absolute()) if path.is_file() and os.access(path, os.X_OK) else None


def _last_line(lines: str | Sequence[str]) -> str:
    found = [line for line in (lines.splitlines() if isinstance(lines, str) else lines) if line.strip()]
    return found[-1].strip() if found else ""
