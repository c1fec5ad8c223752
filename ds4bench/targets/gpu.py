"""Which processes hold GPU memory, by NVML. Nothing where there is no NVIDIA driver."""

from __future__ import annotations

from typing import Any


def gpu_processes() -> dict[int, str]:
    """pid -> what it holds, as ``GPU 0: 71.2 GiB``. Inside a container NVML may tell the host's process ids."""
    nvml = opened_nvml()
    if nvml is None:
        return {}
    found: dict[int, list[str]] = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            for process in compute_processes(nvml, index) or ():
                gib = (process.usedGpuMemory or 0) / 2**30
                found.setdefault(int(process.pid), []).append(f"GPU {index}: {gib:.1f} GiB")
    finally:
        nvml.nvmlShutdown()
    return {pid: ", ".join(parts) for pid, parts in found.items()}


def opened_nvml() -> Any | None:
    """NVML's functions, initialised: the caller must shut it down. None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: all mean the same here
        return None
    return pynvml


def compute_processes(nvml: Any, index: int) -> list[Any] | None:
    """NVML's compute processes on a GPU, each with ``pid`` and ``usedGpuMemory`` (bytes or None); None: not told."""
    try:
        return list(nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)))
    except nvml.NVMLError:  # a MIG parent, or a device that this user may not ask
        return None
