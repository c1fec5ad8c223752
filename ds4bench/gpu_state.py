"""What a GPU does at one instant: the record that ``core.BatchRow`` keeps and ``targets/gpu_watch.py`` fills."""

from __future__ import annotations

import msgspec


class GpuState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU at one instant, by NVML; None is what it does not tell.

    ``slowdowns`` are the reasons by which the hardware or the driver's thermal control keeps the clock down just then;
    ``power_capped`` is the power limit's doing and normal at full load. ``foreign`` are the compute processes that are not
    of the serve, process id -> name; None where it cannot be told that the serve is on this GPU.
    """

    gpu: int  # NVML's number
    memory_mib: int | None = None  # in use, by everybody
    power_w: float | None = None
    utilisation_percent: int | None = None  # of the last second or less, in which any kernel ran
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    slowdowns: list[str] | None = None
    power_capped: bool = False
    foreign: dict[int, str] | None = None
