"""What the GPUs of a serve on this machine do at an instant, by NVML: clock, power, temperature, and who else computes there.

Two looks see nothing of what came and went between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ds4bench.gpu_state import GpuState
from ds4bench.targets.gpu import compute_processes, opened_nvml

_POWER_CAP = 0x04
_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of nvmlClocksThrottleReasons (nvml.h). The others are idle clocks and clocks that somebody has set."""
_UNLISTED_MIB = 256
"""A CUDA context alone takes more. That much in use where NVML lists no process means that it does not list them."""


class GpuWatch:
    """NVML, held open for a run because opening it takes longer than asking; ``close`` it.

    ``ours`` tells processes of the serve by their id. ``launched``: the serve was launched here, so that ``ours`` knows its
    processes; those of a serve that somebody else started are nobody's.
    """

    def __init__(self, nvml: Any, ours: Callable[[int], bool], *, launched: bool) -> None:
        self._nvml = nvml
        self._ours = ours
        self._launched = launched

    @classmethod
    def open(cls, ours: Callable[[int], bool], *, launched: bool) -> GpuWatch | None:
        """The watch; None on a machine without NVML."""
        nvml = opened_nvml()
        return cls(nvml, ours, launched=launched) if nvml is not None else None

    def states(self) -> list[GpuState]:
        """The GPUs on which the serve holds memory, or all where that cannot be told.

        None of them for a serve that holds none, and when NVML answers nothing. Takes milliseconds a GPU.
        """
        gpus = [gpu for index in range(self._count()) if (gpu := self._look(index)) is not None]
        serving = [gpu for gpu in gpus if gpu.serves]
        if serving:
            return [msgspec.structs.replace(gpu.state, foreign=gpu.others) for gpu in serving]
        if self._launched and all(gpu.lists_all for gpu in gpus):
            return []  # it runs on the CPU
        return [gpu.state for gpu in gpus]

    def close(self) -> None:
        """Give NVML back."""
        self._told(self._nvml.nvmlShutdown)

    def _count(self) -> int:
        return self._told(self._nvml.nvmlDeviceGetCount) or 0

    def _look(self, index: int) -> _Gpu | None:
        nvml, handle = self._nvml, self._told(self._nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return None
        processes = compute_processes(nvml, index)
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)  # v2: without the driver's own
        power = self._told(nvml.nvmlDeviceGetPowerUsage, handle)
        utilisation = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        reasons = self._told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        state = GpuState(
            gpu=index,
            memory_mib=memory.used // 2**20 if memory is not None else None,
            power_w=power / 1000 if power is not None else None,
            utilisation_percent=utilisation.gpu if utilisation is not None else None,
            sm_clock_mhz=self._told(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            temperature_c=self._told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            slowdowns=_slowdowns(reasons) if reasons is not None else None,
            power_capped=bool((reasons or 0) & _POWER_CAP),
        )
        if processes is None:
            return _Gpu(state, None, {}) if state != GpuState(gpu=index) else None
        pids = {int(process.pid) for process in processes}
        return _Gpu(state, pids, {pid: _name(pid) for pid in sorted(pids) if not self._ours(pid)})

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any | None:
        """NVML's answer; None for what this GPU, driver or user cannot be told."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None


@dataclass(frozen=True)
class _Gpu:
    """A GPU, the ``pids`` on it (None: not told), and of those the ``others`` that are not the serve's, with their names."""

    state: GpuState
    pids: set[int] | None
    others: dict[int, str]

    @property
    def serves(self) -> bool:
        """Whether a process of the serve is on it."""
        return self.pids is not None and len(self.others) < len(self.pids)

    @property
    def lists_all(self) -> bool:
        """Whether NVML lists who is there, by ids that mean something here: inside a container it may do neither."""
        if not self.pids:
            return self.pids is not None and (self.state.memory_mib or 0) < _UNLISTED_MIB
        return all(Path(f"/proc/{pid}").exists() for pid in self.pids)


def _slowdowns(reasons: int) -> list[str]:
    return [word for bit, word in _SLOWDOWNS.items() if reasons & bit]


def _name(pid: int) -> str:
    """The process's short name. Its command line may hold a key, and is nobody's business."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # gone, or of another container
        return ""
