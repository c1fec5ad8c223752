"""One ahead-of-time compilation. Runs in a worker process: it changes the environment and may crash in the compiler."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ds4_kernels.compile_gate.binary import (
    Measurement,
    before_the_wait,
    foreign_instructions,
    mma_kinds,
    resource_usage,
)
from ds4_kernels.compile_gate.rules import CAPABILITY
from ds4_kernels.triton.compile_case import CompileCase

_MESSAGE_LIMIT = 4000
_THREADS_PER_WARP = 32
_ALIGNED = [["tt.divisibility", 16]]


def measure(case: CompileCase, arch: str) -> Measurement:
    """Compile ``case`` for ``arch`` and read the result. Never raises: a compiler's failure is a result (``error``)."""
    start = time.perf_counter()
    # A cache of its own: Triton's would hide the compile time, and would grow by every configuration.
    with tempfile.TemporaryDirectory(prefix="ds4-kernels-gate-") as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        os.environ.pop("TRITON_OVERRIDE_ARCH", None)
        try:
            compiled = _compile(case, CAPABILITY[arch])
            seconds = time.perf_counter() - start
            usage = resource_usage(compiled.asm["cubin"], Path(folder))
        except Exception as error:
            return Measurement(seconds=time.perf_counter() - start, error=_message(error))
    ptx = compiled.asm["ptx"]
    return Measurement(
        shared=compiled.metadata.shared,
        registers=usage["REG"],
        stack=usage["STACK"],
        local=usage.get("LOCAL", 0),
        mma=mma_kinds(ptx),
        foreign=foreign_instructions(ptx),
        early=before_the_wait(ptx),
        seconds=seconds,
    )


def _message(error: BaseException) -> str:
    """The cause in one line, then what Triton says in full: an error in a called function is the caller's cause."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    lines = str(chain[-1]).strip().splitlines()
    first = f"{type(chain[-1]).__name__}: {lines[-1].strip() if lines else ''}"
    full = "\n".join(str(link).rstrip() for link in chain)
    return (first if full == first or len(chain) == len(lines) == 1 else f"{first}\n{full}")[:_MESSAGE_LIMIT]


def _compile(case: CompileCase, capability: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names: list[str] = case.kernel.arg_names
    _check_arguments(case, names)
    source = ASTSource(
        fn=case.kernel,
        signature={name: "constexpr" if name in case.constexprs else case.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in case.constexprs.items()},
        attrs={(index,): _ALIGNED for index, name in enumerate(names) if _is_aligned(case, name)},
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, _THREADS_PER_WARP),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
    )


def _check_arguments(case: CompileCase, names: list[str]) -> None:
    given = set(case.signature) | set(case.constexprs)
    missing = [name for name in names if name not in given]
    unknown = sorted((given | set(case.divisible)) - set(names))
    if missing:
        raise ValueError(f"the case gives no type for {', '.join(missing)}")
    if unknown:
        raise ValueError(f"the kernel has no argument {', '.join(unknown)}")


def _is_aligned(case: CompileCase, name: str) -> bool:
    if name in case.constexprs:
        return False
    return case.signature[name].startswith("*") or name in case.divisible
