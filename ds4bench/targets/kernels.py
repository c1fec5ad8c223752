"""``--kernels``: whose kernels a launched serve runs on, as environment variables, and what its processes report of them.

The plugin of ``ds4-kernels`` in the engine's environment reads the variables. Every process that it is loaded in keeps a
JSON file in the folder that ``DS4_KERNELS_REPORT`` names; these files are the proof that the kernels really ran.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ds4bench import env
from ds4bench.core import EMBEDDED_ENGINE, Fingerprint, KernelProcess, KernelUse
from ds4bench.errors import TargetError
from ds4bench.targets.node_reports import NodeReports

ENGINE, BUNDLED = "engine", "bundled"
_OPS = "ops="
REPORT_FOLDER = "DS4_KERNELS_REPORT"
"""Another one for each launch, so no part of what a serve is."""
REPORT_SCHEMA = "ds4-kernels.report/1"
_FOLDER = "kernels"


@dataclass(frozen=True)
class KernelChoice:
    """``engine``: the engine's own kernels; ``bundled``: ours wherever there is a hook; ``ops=...``: ours for these only."""

    text: str

    @property
    def selection(self) -> list[str] | None:
        """Groups and ops that run on the bundle; None for all, empty for none."""
        if self.text == ENGINE:
            return []
        return None if self.text == BUNDLED else self.text.removeprefix(_OPS).split(",")

    def environment(self, engine: str, report: Path | None = None) -> dict[str, str]:
        """The variables for a serve of this engine; ``report`` is the folder for what its processes tell.

        An engine gets ``force``, since who names kernels wants them on any GPU; the embedded engine's ops choose by device.
        They win over what the user's shell has: shadow mode above all, which would count calls whose results nobody uses.
        DS4_KERNELS_SABOTAGE is inherited, and told of as a fault of the serve. Raises TargetError as ``check_shell``.
        """
        self.check_shell()
        chosen = {"DS4_KERNELS": "off"}
        if self.selection != []:
            hooked = {"DS4_KERNELS": "force", "DS4_KERNELS_SHADOW": "0"}
            chosen = {"DS4_KERNELS": "auto"} if engine == "embedded" else hooked
        if self.selection:
            chosen["DS4_KERNELS_OPS"] = ",".join(self.selection)
        return chosen | ({REPORT_FOLDER: str(report)} if report is not None else {})

    def check_shell(self) -> None:
        """Raises TargetError for the one variable of the user's shell that cannot be overruled: no value of it means all."""
        if self.selection is None and env.kernel_ops() is not None:  # an empty one selects nothing
            raise TargetError("DS4_KERNELS_OPS is set in this shell and would narrow --kernels bundled: unset it")


def parse_choice(text: str) -> KernelChoice:
    """``engine``, ``bundled`` or ``ops=NAME,NAME``. Raises TargetError, for a name that is no op or group too."""
    names = [name.strip() for name in text.removeprefix(_OPS).split(",")]
    if text.startswith(_OPS) and all(names):
        _check_names(text, names)
        return KernelChoice(_OPS + ",".join(names))
    if text not in (ENGINE, BUNDLED):
        raise TargetError(
            f"--kernels {text!r} is none of: bundled, engine, ops=NAME,NAME (for example ops=attn,indexer; "
            "`ds4-kernels doctor` lists the ops)"
        )
    return KernelChoice(text)


def _check_names(text: str, names: Sequence[str]) -> None:
    """The op table is the plugin's: where it is not installed beside ds4bench, only the plugin can judge the names."""
    try:
        table = importlib.import_module("ds4_kernels.table")  # without torch
    except ModuleNotFoundError:
        return
    try:
        table.names(",".join(names))
    except ValueError as error:
        raise TargetError(f"--kernels {text}: {error}") from None


def choice_of(parts: Sequence[str]) -> KernelChoice:
    """The choice that puts exactly these groups and ops on the bundle."""
    return KernelChoice(_OPS + ",".join(parts) if parts else ENGINE)


@dataclass(frozen=True)
class KernelWatch:
    """The kernels that a serve was launched with, and where its processes tell what they do. ``folder`` holds one folder a
    launch, so that a resumed run keeps what the serves before it have told. On several machines (``nodes``) their reports
    come here with ``collect``."""

    choice: KernelChoice
    folder: Path
    nodes: NodeReports | None = None

    def environment(self, engine: str) -> dict[str, str]:
        """The variables for the next launch, with a report folder of its own."""
        number = len(list(self.folder.glob("launch-*"))) if self.folder.is_dir() else 0
        report = self.folder / f"launch-{number}"
        report.mkdir(parents=True)
        return self.choice.environment(engine, report.absolute() if self.nodes is None else Path(self.nodes.folder))

    async def collect(self) -> list[str]:
        """Bring here what the processes of the last launch have told on other machines. Returns a line for each machine
        that did not answer; its processes then count as if they had told nothing."""
        return [] if self.nodes is None else await self.nodes.fetch(self._launches()[-1])

    async def discard(self) -> None:
        """Once the serve has ended: remove its reports from other machines."""
        if self.nodes is not None:
            await self.nodes.discard()

    def use(self, told: Fingerprint) -> KernelUse:
        """What the processes of all launches have told up to now. Raises TargetError for a file that is not theirs."""
        launches = [read_reports(folder) for folder in self._launches()]
        backends = told.flags.get("kernels") if told.engine == EMBEDDED_ENGINE else None
        return KernelUse(
            choice=self.choice.text, selection=self.choice.selection, launches=launches,
            backends=dict(backends) if isinstance(backends, Mapping) else None,
        )  # fmt: skip

    def _launches(self) -> list[Path]:
        return sorted(self.folder.glob("launch-*"), key=_number)


def watch(choice: str | None, log_path: Path, nodes: NodeReports | None = None) -> KernelWatch | None:
    """The watch for a serve whose log is at ``log_path``; None without ``--kernels``. Raises TargetError."""
    return None if choice is None else KernelWatch(parse_choice(choice), log_path.parent / _FOLDER, nodes)


def told_of_kernels(told: Fingerprint, kernels: KernelWatch) -> Fingerprint:
    """The fingerprint with what the serve's kernels have told; ops that are wrong on purpose count as injected faults."""
    use = kernels.use(told)
    wrong = {
        f"kernel:{op}:{scale:g}"
        for process in (process for launch in use.launches for process in launch)
        for op, scale in process.sabotage.items()
        if any(hook.op == op and hook.state == "installed" for hook in process.hooks)
    }
    return msgspec.structs.replace(told, kernels=use, faults=[*told.faults, *sorted(wrong)])


def read_reports(folder: Path) -> list[KernelProcess]:
    """The processes that have told, in the order of their ids. Raises TargetError for a file that cannot be read."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


_PROBE = """
import importlib.metadata as m, sys
print(any(e.name == "ds4_kernels" for e in m.entry_points(group=sys.argv[1])))
"""
_GROUPS = {"vllm": "vllm.general_plugins", "sglang": "sglang.srt.plugins"}
_ALLOWED = {"vllm": "VLLM_PLUGINS", "sglang": "SGLANG_PLUGINS"}
_PROBE_TIMEOUT_S = 60.0


def check_plugin(python: str, engine: str, choice: KernelChoice) -> None:
    """Raises TargetError when bundled kernels are asked for and the engine's environment has no plugin to bring them."""
    if choice.selection == []:
        return
    command = [python, "-c", _PROBE, _GROUPS[engine]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise TargetError(f"--engine-python {python}: this python does not work: {error}") from None
    if done.stdout.strip() != "True":
        raise TargetError(
            f"--kernels {choice.text}: {python} has no plugin ds4_kernels for {engine}; install ds4-kernels there "
            f"(pip install --no-deps: its needs are the engine's own), and see ds4-kernels doctor --engine-python {python}"
        )


def loading_fault(use: KernelUse, engine: str) -> str | None:
    """Why a serve of ``engine`` that has answered is not on the kernels that were asked for; None where it may be.

    What shows only while it serves (calls that went to the engine's own kernel, too few workers) is the check
    ``kernels_loaded``. The embedded engine has no hooks: there that check says all.
    """
    if use.selection == [] or engine == EMBEDDED_ENGINE or not use.launches:
        return None
    why = _not_loaded(use, engine, use.launches[-1])
    return f"--kernels {use.choice}: {why}" if why is not None else None


async def loaded(told: Fingerprint, kernels: KernelWatch) -> str:
    """One line on the kernels of a serve that has answered. Raises TargetError where ``loading_fault`` finds that it need
    not be measured, and where a machine of it does not tell."""
    silent = await kernels.collect()
    use = kernels.use(told)
    fault = "; ".join(silent) or loading_fault(use, told.engine)
    if fault:
        raise TargetError(fault)
    return f"kernels {use.choice}: {summary(use)}"


def _not_loaded(use: KernelUse, engine: str, processes: Sequence[KernelProcess]) -> str | None:
    if not processes:
        allowed = _ALLOWED.get(engine, "the engine's list of allowed plugins")
        return (
            f"no process of {engine} wrote a report, so the plugin ran in none: look in the log for what loading ds4_kernels "
            f"said; {allowed} may leave it out, or DS4_KERNELS_REPORT did not reach the processes"
        )
    hooks = list(use.selected(processes))
    if any(process.shadow for process in processes):
        return "DS4_KERNELS_SHADOW=1 reached the serve: it uses the results of the engine's own kernels"
    if not any(hook.state == "installed" for hook in hooks):
        reasons = [process.note for process in processes if process.note]
        reasons += [f"{hook.hook}: {hook.reason}" for hook in hooks if hook.reason]
        never = "the engine imported none of the modules that it would replace, as for a model of another architecture"
        why = "; ".join(list(dict.fromkeys(reasons))[:3]) or never
        return f"no bundled kernel was installed in any process ({why})"
    missing = [part for part in use.selection or [] if not any(part in (hook.op, hook.group) for hook in hooks)]
    if missing:
        return f"the plugin has no hook for {', '.join(missing)} in this {engine}"
    lost = [f"{hook.hook} was {hook.state} ({hook.reason})" for hook in hooks if hook.state in ("skipped", "failed")]
    return "; ".join(list(dict.fromkeys(lost))[:3]) or None


def summary(use: KernelUse) -> str:
    """One line for a person: what the processes of the last launch have said."""
    if use.backends is not None:
        bundled = sum(backend != "reference" for backend in use.backends.values())
        return f"{bundled} of {len(use.backends)} ops on Triton, the others on their PyTorch reference"
    processes = use.launches[-1] if use.launches else []
    hooks = [hook for process in processes for hook in process.hooks]
    ran = {hook.op for hook in hooks if hook.calls}
    installed = sum(hook.state == "installed" for hook in hooks)
    notes = list(dict.fromkeys(process.note for process in processes if process.note))
    said = f"; {'; '.join(notes)}" if notes else ""
    names = f": {', '.join(sorted(ran))}" if ran else ""
    return f"{len(processes)} processes told of {installed} installed hooks, {len(ran)} ops ran{names}{said}"


def _read(path: Path) -> KernelProcess:
    try:
        document: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if document.get("schema") != REPORT_SCHEMA:
            raise TargetError(f"{path} has schema {document.get('schema')!r}, this ds4bench reads {REPORT_SCHEMA}")
        return msgspec.convert(document, KernelProcess)
    except (OSError, msgspec.MsgspecError) as error:
        raise TargetError(f"{path}: cannot be read as a kernel report: {error}") from error


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
