"""Where numbers come from: code, packages, machine."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import ds4bench
from ds4bench import keys

_PACKAGES = (
    "torch",
    "triton",
    "ds4-kernels",
    "numpy",
    "scipy",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "msgspec",
    "vllm",
    "sglang",
)


def collect() -> dict[str, Any]:
    """Everything about this side of a run that a reader may want to know later."""
    return {
        "ds4bench": ds4bench.__version__,
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
        "os": platform.platform(),
        "hardware": hardware_fingerprint(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "ram_gib": ram_gib(),
        "command": [Path(sys.argv[0]).name, *keys.masked(sys.argv[1:])],
    }


@functools.cache
def _hardware() -> tuple[tuple[str, Any], ...]:
    gpus, driver = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (("cpu", _cpu_model()), ("cores", cores), ("gpus", gpus), ("driver", driver))


def hardware_fingerprint() -> dict[str, Any]:
    """The machine, as far as it decides speed: CPU model, usable cores, GPUs, driver."""
    return dict(_hardware())


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that this package runs from; None outside one."""
    root = Path(ds4bench.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
        dirty = bool(_output(["git", "-C", str(root), "status", "--porcelain"]))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def ram_gib() -> float | None:
    """Physical memory; None where the system does not tell."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def _gpus() -> tuple[list[str], str | None]:
    """(names of the GPUs, driver version) by NVML; nothing where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: all mean the same here
        return [], None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(h)) for h in handles], str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
