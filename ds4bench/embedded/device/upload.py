"""Host tensors to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A host tensor on ``device``, as ``dtype`` if that is given.

    A GPU gets it from pinned memory, in the order of its stream: the host goes on at once. (From pageable memory the
    copy waits until the device has done all its work.) torch keeps the pinned block until the copy has run.
    """
    if dtype is not None:
        tensor = tensor.to(dtype)
    if device.type != "cuda" or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
