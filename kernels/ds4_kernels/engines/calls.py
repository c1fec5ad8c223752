"""What a replaced function does when the engine calls it: decide, run ours or the engine's, count, compare."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines import selection, shadow
from ds4_kernels.engines.hook import Declined, Function, Hook
from ds4_kernels.engines.report import Difference, HookState, Report, say

_MARK = "__ds4_hook__"


def is_wrapped(function: Function, hook: Hook) -> bool:
    """Whether ``function`` is the replacement of this hook's target already."""
    return getattr(function, _MARK, None) == hook.target


def wrap(hook: Hook, original: Function, state: HookState, report: Report) -> Function:
    """The function to put in place of ``original``. torch.compile traces the original through it, and so compiles it."""
    call = _Call(hook, original, state, report)

    def traced(_: object) -> None:
        state.traced += 1
        report.touch(first=state.traced == 1)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            from torch._dynamo.comptime import comptime  # the tracer is loaded by now, and only now

            comptime(traced)  # runs while this is traced, once; a count in here would become part of the graph's guards
            return original(*args, **kwargs)
        return call(args, kwargs)

    setattr(replaced, _MARK, hook.target)
    return replaced


class _Call:
    """One hook at work."""

    def __init__(self, hook: Hook, original: Function, state: HookState, report: Report) -> None:
        self.hook, self.original, self.state, self.report = hook, original, state, report
        self.ours = hook.factory(original)
        self.signature = inspect.signature(original)
        self.scale = (report.settings.sabotage or {}).get(hook.op)
        self._decisions: dict[torch.device | None, selection.Decision] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.state.state == "failed" or not self._active(args, kwargs):
            self.state.inactive += 1
            return self.original(*args, **kwargs)
        if self.report.settings.shadow and (not self.hook.shadow or not _capturing()):
            return self._shadow(args, kwargs)
        result = self._run(args, kwargs)
        if isinstance(result, Declined):
            return self.original(*args, **kwargs)
        self._sabotage(args, kwargs, result)
        return result

    def _active(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        device = ops.device_of(args, kwargs) or selection.current_device()
        decision = self._decisions.get(device)
        if decision is None:
            decision = selection.decide_for(self.report.settings.mode, device or torch.device("cpu"))
            if device is not None:
                self._decisions[device] = decision
            self.report.device = str(device)
            self.state.reason = decision.reason
            self.report.touch(first=True)
        return decision.active

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Our op, counted. An exception in it gives the call, and all later ones, back to the engine."""
        try:
            with ops.unrestricted():
                result = self.ours(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            if self.report.settings.strict:
                raise
            self.state.state, self.state.reason = "failed", f"{type(error).__name__}: {error}"[:500]
            say(self.report.engine, f"{self.hook.name} failed and the engine's own op takes over: {self.state.reason}")
            self.report.touch(first=True)
            return Declined("failed")
        if isinstance(result, Declined):
            first = result.reason not in self.state.declined
            self.state.declined[result.reason] = self.state.declined.get(result.reason, 0) + 1
            self.report.touch(first)
            return result
        self.state.calls += 1
        self.report.touch(first=self.state.calls == 1)
        return result

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound

    def _outputs(self, bound: inspect.BoundArguments, result: Any) -> list[tuple[str, Tensor]]:
        """What the op gave: tensors of the result, then those it wrote into, each memory once."""
        found = [(f"result[{i}]", tensor) for i, tensor in enumerate(ops.tensors(result))]
        for name in self.hook.writes:
            values = list(ops.tensors(_holder(bound, name).get(name)))
            found += [(name if len(values) == 1 else f"{name}[{i}]", value) for i, value in enumerate(values)]
        return found

    def _sabotage(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """DS4_KERNELS_SABOTAGE: scale the floating outputs in place (an FP8 or integer output stays as it is)."""
        if self.scale is None:
            return
        seen: set[int] = set()
        for _, tensor in self._outputs(self._bind(args, kwargs), result):
            if tensor.dtype.is_floating_point and tensor.element_size() > 1 and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                tensor.mul_(self.scale)
                self.state.sabotaged += 1

    def _shadow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Both ops on the same inputs; the engine's result is what the engine gets."""
        if not self.hook.shadow:
            return self.original(*args, **kwargs)
        bound, mine = self._bind(args, kwargs), self._bind(args, kwargs)
        for name in self.hook.writes:
            holder = _holder(mine, name)
            if name in holder:
                holder[name] = shadow.clone(holder[name])
        result = self._run(mine.args, mine.kwargs)
        if not isinstance(result, Declined):
            self._sabotage(mine.args, mine.kwargs, result)
        expected = self.original(*args, **kwargs)
        if not isinstance(result, Declined):
            self._compare(self._outputs(mine, result), self._outputs(bound, expected), dict(bound.arguments))
        return expected

    def _compare(
        self, ours: list[tuple[str, Tensor]], theirs: list[tuple[str, Tensor]], arguments: dict[str, Any]
    ) -> None:
        left, right = tuple(tensor for _, tensor in ours), tuple(tensor for _, tensor in theirs)
        if self.hook.comparable is not None:
            left, right = tuple(self.hook.comparable(arguments, left)), tuple(self.hook.comparable(arguments, right))
        first = not self.state.shadow
        labels = [name for name, _ in theirs]
        if len(labels) != len(right):
            labels = [f"output[{i}]" for i in range(len(right))]
        if len(left) != len(right):
            self.state.shadow["outputs"] = Difference(
                1, mismatch=1.0, shape=f"{len(right)} against {len(left)} tensors"
            )
        for name, a, b in zip(labels, left, right, strict=False):
            worst = self.state.shadow.setdefault(name, Difference())
            shadow.compare(a, b, worst)
            if first:
                say(self.report.engine, f"shadow {self.hook.name}: {shadow.line(name, worst)}")
        if first and labels:
            self.report.touch(first=True)


def _holder(bound: inspect.BoundArguments, name: str) -> dict[str, Any]:
    """The dict that has an argument: the bound ones, or those that a ``**kwargs`` parameter took."""
    if name not in bound.arguments:
        for parameter in bound.signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                extra: dict[str, Any] = bound.arguments[parameter.name]
                return extra
    return bound.arguments


def _capturing() -> bool:
    """Whether a CUDA graph is being captured: a comparison would wait for the device, which capture forbids."""
    return selection.initialized() and torch.cuda.is_current_stream_capturing()
