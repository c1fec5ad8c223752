"""Which processes hold GPU memory, by NVML. Nothing where there is no NVIDIA driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def gpu_processes() -> dict[int, str]:
    """pid -> what it holds, as ``GPU 0: 71.2 GiB``. Inside a container NVML may tell the host's process ids."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: all mean the same here
        return {}
    found: dict[int, list[str]] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            for process in _compute_processes(pynvml, index):
                gib = (process.usedGpuMemory or 0) / 2**30
                found.setdefault(int(process.pid), []).append(f"GPU {index}: {gib:.1f} GiB")
    finally:
        pynvml.nvmlShutdown()
    return {pid: ", ".join(parts) for pid, parts in found.items()}


def _compute_processes(nvml: Any, index: int) -> Iterator[Any]:
    try:
        yield from nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError:  # a MIG parent, or a device that this user may not ask
        return
