"""``ds4-kernels doctor``: what this machine has, what would run on it, and what would help."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from ds4_kernels import __version__
from ds4_kernels.compile_gate.rules import triton_before_38
from ds4_kernels.compile_gate.run import interpreted

SCHEMA = "ds4-kernels.doctor/1"

_TESTED_CAPABILITIES = ((9, 0), (12, 0), (12, 1))
_SM121 = (12, 1)
_WIDTH = 100


@dataclass(frozen=True)
class Device:
    """A CUDA device. ``shared_memory`` are the bytes that one block may use, None where torch does not tell.

    ``tuning_table`` names the table of W8A8 tiles that is used; ``tuning_note`` says why where it is a stand-in.
    """

    index: int
    name: str
    capability: tuple[int, int]
    arch: str
    shared_memory: int | None
    memory: int
    multiprocessors: int
    tile_set: str
    tuning_table: str
    tuning_note: str | None


@dataclass(frozen=True)
class OpState:
    """Which backend an op gets, and why."""

    op: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor says. ``triton`` is None when it is not installed, ``torch_cuda`` for a CPU build."""

    python: str
    torch: str
    torch_cuda: str | None
    triton: str | None
    interpreted: bool
    devices: tuple[Device, ...]
    ops: tuple[OpState, ...]
    hints: tuple[str, ...]


def main(args: argparse.Namespace) -> int:
    """Print the diagnosis (``args.json``: as JSON); with ``args.engine_python`` that of an engine. Returns the exit code."""
    if getattr(args, "engine_python", None):
        return int(importlib.import_module("ds4_kernels.engine_doctor").main(args))
    found = diagnose()
    sys.stdout.write((json.dumps(document(found), indent=1) if args.json else text(found)) + "\n")
    return 0


def diagnose() -> Diagnosis:
    """Look at this machine. Starts no kernel."""
    import torch

    from ds4_kernels import ops

    devices = tuple(_device(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    triton = _triton_version()
    return Diagnosis(
        python=platform.python_version(),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        triton=triton,
        interpreted=interpreted(),
        devices=devices,
        ops=tuple(OpState(choice.op, choice.backend, choice.reason) for choice in ops.describe()),
        hints=tuple(_hints(devices, triton, torch.version.cuda)),
    )


def document(found: Diagnosis) -> dict[str, Any]:
    """The JSON document, schema ``ds4-kernels.doctor/1``: the fields of ``Diagnosis``, ``Device`` and ``OpState``."""
    return {"schema": SCHEMA, "ds4_kernels": __version__, **asdict(found)}


def text(found: Diagnosis) -> str:
    """The diagnosis for people."""
    build = f"CUDA {found.torch_cuda}" if found.torch_cuda else "CPU build"
    lines = [
        f"ds4-kernels {__version__}, Python {found.python}, torch {found.torch} ({build}), "
        f"Triton {found.triton or 'not installed'}{' (interpreter)' if found.interpreted else ''}",
        "",
        *(_device_lines(found.devices) or ["No CUDA device."]),
        "",
        *_op_lines(found.ops),
    ]
    if found.hints:
        lines += ["", *(f"hint: {hint}" for hint in found.hints)]
    return "\n".join(lines)


def _device(index: int) -> Device:
    import torch

    from ds4_kernels.triton.arch import tile_set
    from ds4_kernels.tuning import resolve_device

    properties = torch.cuda.get_device_properties(index)
    tuning = resolve_device(properties.name)
    return Device(
        index=index,
        name=properties.name,
        capability=(properties.major, properties.minor),
        arch=f"sm_{properties.major}{properties.minor}",
        shared_memory=getattr(properties, "shared_memory_per_block_optin", None),
        memory=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        tile_set=tile_set(torch.device("cuda", index)),
        tuning_table=tuning.table,
        tuning_note=tuning.note,
    )


def _triton_version() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return None
    return str(importlib.import_module("triton").__version__)


def _hints(devices: tuple[Device, ...], triton: str | None, torch_cuda: str | None) -> list[str]:
    hints = []
    if not devices:
        why = " (this torch is a CPU build)" if torch_cuda is None else ""
        hints.append(
            f"no CUDA device{why}: ops run on their PyTorch reference. `ds4-kernels compile` checks the kernels for SM12x "
            "without a GPU; TRITON_INTERPRET=1 runs them on the CPU, slowly."
        )
    if triton is None:
        hints.append("Triton is not installed: pip install 'triton>=3.6' (CUDA builds of torch bring their own).")
    elif triton_before_38(triton):
        hints += [
            f"device {device.index} is sm_121 and Triton {triton} widens FP8 there: FP8 dots run at half rate. Triton 3.8 or "
            "newer (torch 2.14 brings it) runs them at full rate."
            for device in devices
            if device.capability == _SM121
        ]
    hints += [
        f"device {device.index} ({device.name}) is {device.arch}: the kernels are tested on sm_90, sm_120 and sm_121 only."
        for device in devices
        if device.capability not in _TESTED_CAPABILITIES
    ]
    if devices and interpreted():
        hints.append(
            f"TRITON_INTERPRET={os.environ['TRITON_INTERPRET']} is set: kernels run in the interpreter, not on the GPU."
        )
    return hints


def _device_lines(devices: tuple[Device, ...]) -> list[str]:
    lines = []
    for device in devices:
        shared = f"{device.shared_memory:,} B" if device.shared_memory is not None else "an unknown amount"
        lines += [
            f"device {device.index}: {device.name}, {device.arch}, {device.multiprocessors} multiprocessors, "
            f"{device.memory / 2**30:.1f} GiB",
            f"  shared memory a block may use: {shared}; tiles: {device.tile_set}",
            f"  tuning table: {device.tuning_table}{f' ({device.tuning_note})' if device.tuning_note else ''}",
        ]
    return lines


def _op_lines(ops: tuple[OpState, ...]) -> list[str]:
    """Ops that have backend and reason in common stand together, so that an exception stands out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for state in ops:
        groups.setdefault((state.backend, state.reason), []).append(state.op)
    lines = []
    for (backend, reason), names in groups.items():
        why = f" ({reason})" if reason else ""
        lines.append(f"{len(names)} {'op' if len(names) == 1 else 'ops'} on {backend}{why}:")
        lines += textwrap.wrap(", ".join(names), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    return lines or ["No ops."]
