"""Whether the bundle replaces an engine's op on a device: the mode, the selected ops and the device's capability.

Nothing here initialises CUDA: the device is that of the tensors of a call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ds4_kernels import env, ops

SM12X = 12


@dataclass(frozen=True)
class Decision:
    """Whether the replacement runs, and why (not)."""

    active: bool
    reason: str


def selected(op: str, settings: env.Settings) -> Decision:
    """Whether hooks of ``op`` are installed at all. Raises ValueError for an unknown name in DS4_KERNELS_OPS."""
    if settings.mode == "off":
        return Decision(False, "DS4_KERNELS=off")
    if settings.ops is not None and op not in ops.names(settings.ops):
        return Decision(False, f"not in DS4_KERNELS_OPS={settings.ops}")
    return Decision(True, f"DS4_KERNELS={settings.mode}")


def decide(mode: str, capability: tuple[int, int] | None) -> Decision:
    """Whether replacements run on a GPU of this compute capability (None: tensors are not on a CUDA device)."""
    if mode == "off":
        return Decision(False, "DS4_KERNELS=off")
    if mode in ("reference", "triton"):
        return Decision(True, f"DS4_KERNELS={mode}")
    if capability is None:
        return Decision(False, "tensors are not on a CUDA GPU")
    name = f"sm_{capability[0]}{capability[1]}"
    if mode == "force":
        return Decision(True, f"DS4_KERNELS=force on {name}")
    if capability[0] == SM12X:
        return Decision(True, f"DS4_KERNELS=auto on {name}")
    return Decision(False, f"DS4_KERNELS=auto replaces nothing on {name} (SM12x only; force would)")


def decide_for(mode: str, device: torch.device) -> Decision:
    """``decide`` for the device of a call's tensors."""
    return decide(mode, torch.cuda.get_device_capability(device) if device.type == "cuda" else None)


def current_device() -> torch.device | None:
    """The current CUDA device where CUDA is initialised already; None elsewhere."""
    return torch.device("cuda", torch.cuda.current_device()) if initialized() else None


def initialized() -> bool:
    """Whether this process has used CUDA."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
