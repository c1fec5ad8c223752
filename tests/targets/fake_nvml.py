"""NVML as ds4bench asks it: GPUs with processes and readings, each of which may be refused. Stands in for ``pynvml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What pynvml raises for everything."""


@dataclass
class FakeGpu:
    """``pids`` are its compute processes; ``refused`` names the functions that this GPU cannot be asked."""

    pids: list[int] = field(default_factory=list)
    used_mib: int = 4
    power_mw: int = 690_400
    busy: int = 97
    clock_mhz: int = 1980
    heat_c: int = 71
    reasons: int = 0
    refused: tuple[str, ...] = ()


class FakeNvml:
    """The module. ``opened`` counts inits that were not shut down; ``lost`` refuses every question from now on."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 0x2000028

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
        self.opened = 0
        self.lost = False

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        if self.opened == 0:
            raise NVMLError("Uninitialized")
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.lost or self.opened == 0:
            raise NVMLError("GPU is lost")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._ask(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[Any]:
        gpu = self._ask(handle, "nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in gpu.pids]

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu, version: int) -> Any:
        assert version == self.nvmlMemory_v2
        return SimpleNamespace(used=self._ask(handle, "nvmlDeviceGetMemoryInfo").used_mib * 2**20)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:
        return self._ask(handle, "nvmlDeviceGetPowerUsage").power_mw

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> Any:
        return SimpleNamespace(gpu=self._ask(handle, "nvmlDeviceGetUtilizationRates").busy)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: FakeGpu) -> int:
        return self._ask(handle, "nvmlDeviceGetCurrentClocksThrottleReasons").reasons

    def nvmlDeviceGetClockInfo(self, handle: FakeGpu, clock: int) -> int:
        assert clock == self.NVML_CLOCK_SM
        return self._ask(handle, "nvmlDeviceGetClockInfo").clock_mhz

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._ask(handle, "nvmlDeviceGetTemperature").heat_c

    def _ask(self, gpu: FakeGpu, what: str) -> FakeGpu:
        if self.lost or what in gpu.refused:
            raise NVMLError("Not Supported")
        return gpu
