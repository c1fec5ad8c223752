"""The op table: one name per op, and the choice of the backend that runs it.

``ops.call("sparse_attention_decode", ...)`` or ``ops.sparse_attention_decode(...)`` runs the PyTorch reference or the
Triton kernel. Both take the same arguments.

* ``DS4_KERNELS``: ``auto`` (default) and ``force``: Triton for CUDA tensors, the reference elsewhere; ``off`` and
  ``reference``: the reference; ``triton``. ``env`` says what each means in an engine.
* ``DS4_KERNELS_OPS``: comma list of op names or groups (``attn,indexer,...``) that may use Triton; the rest stay on the
  reference. Unset: all. A name that does not exist raises ValueError.
* ``DS4_KERNELS_SABOTAGE``: ``op:scale`` list: these ops are made wrong on purpose, to test that attribution finds them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ds4_kernels import env
from ds4_kernels.table import TABLE, names

__all__ = ["TABLE", "names"]
Backend = Literal["reference", "triton"]
MODES = env.MODES


@dataclass(frozen=True)
class Choice:
    """Which backend runs an op, and why."""

    op: str
    group: str
    backend: Backend
    reason: str


def choose(name: str, device: torch.device | str) -> Choice:
    """The backend of ``name`` for tensors on ``device``, from the environment. Raises ValueError for a bad setting."""
    op = TABLE[name]
    allowed = None if _hook.depth else env.selection()
    backend, reason = _backend(name, torch.device(device), env.mode(), allowed)
    return Choice(op.name, op.group, backend, reason)


def describe(device: torch.device | str | None = None) -> list[Choice]:
    """The choice for every op on ``device`` (default: the GPU where there is one)."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return [choose(name, device) for name in TABLE]


def implementation(name: str, backend: Backend) -> Callable[..., Any]:
    """The function of a backend. Raises KeyError for an unknown op, ImportError where triton is missing."""
    function: Callable[..., Any] = getattr(_module(backend, TABLE[name].module), name)
    return function


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Run an op on the backend that ``choose`` names for the device of the first tensor among its arguments."""
    device = device_of(args, kwargs) or torch.device("cpu")
    result = implementation(name, backend_of(name, device))(*args, **kwargs)
    if not _hook.depth and os.environ.get(env.SABOTAGE):
        _scale(name, result, kwargs)
    return result


def backend_of(name: str, device: torch.device) -> Backend:
    """``choose(name, device).backend``; inside of a hook decided once for each mode: an engine's step calls many ops."""
    if _hook.depth:
        return _hooked_backend(name, device, os.environ.get(env.MODE))
    return choose(name, device).backend


def device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device of the first tensor among the arguments, None where there is none."""
    for value in args or kwargs.values():
        if isinstance(value, Tensor):
            return value.device
    return next((tensor.device for tensor in tensors((args, kwargs))), None)


class _Hook(threading.local):
    """While an engine hook runs: it was selected (and is sabotaged) itself, so each op that it calls may use Triton."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1


_hook = _Hook()


def unrestricted() -> _Hook:
    """A context in which DS4_KERNELS_OPS and DS4_KERNELS_SABOTAGE are not looked at again (the caller has)."""
    return _hook


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a value, also those inside of tuples, lists and dicts (an attention state is a tuple)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in TABLE:
        raise AttributeError(f"ds4_kernels.ops has no op {name!r}")
    return functools.partial(call, name)


def sabotaged() -> dict[str, float]:
    """Ops of this process that DS4_KERNELS_SABOTAGE makes wrong, with their factor: those that DS4_KERNELS and
    DS4_KERNELS_OPS put on the bundle, so that switching an op off makes it right again. On any device, to test on a CPU."""
    if env.mode() == "off":
        return {}
    allowed = names(env.selection())
    return {name: factor for name, factor in env.sabotage().items() if name in allowed}


def _scale(name: str, result: Any, kwargs: dict[str, Any]) -> None:
    """DS4_KERNELS_SABOTAGE: scale what the op returned and its ``out`` in place, each memory once; floats alone."""
    factor = sabotaged().get(name)
    if factor is None:
        return
    outputs = {tensor.data_ptr(): tensor for tensor in tensors((kwargs.get("out"), result))}
    for tensor in outputs.values():
        if tensor.dtype.is_floating_point and tensor.element_size() > 1:
            tensor.mul_(factor)


@functools.cache
def _hooked_backend(name: str, device: torch.device, mode: str | None) -> Backend:
    return choose(name, device).backend


def _backend(name: str, device: torch.device, mode: str, allowed: str | None) -> tuple[Backend, str]:
    if mode in ("reference", "off"):
        return "reference", f"DS4_KERNELS={mode}"
    if allowed is not None and name not in names(allowed):
        return "reference", f"not in DS4_KERNELS_OPS={allowed}"
    if not has_triton():
        return "reference", "triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if mode == "triton":
        if device.type != "cuda" and not interpreted:
            return "reference", f"no Triton on {device.type} (TRITON_INTERPRET=1 would interpret it)"
        return "triton", "DS4_KERNELS=triton"
    if device.type != "cuda":
        return "reference", f"tensors are on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return "reference", "FP8 needs compute capability 8.9"
    return "triton", "CUDA"


@functools.cache
def has_triton() -> bool:
    """Whether triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _module(backend: Backend, module: str) -> Any:
    return importlib.import_module(f"ds4_kernels.{backend}.{module}")
