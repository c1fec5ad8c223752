"""What the compiler's outputs say: MMA instructions in the PTX, registers and stack in the cubin's resource table."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MMA = re.compile(r"(?<![\w.])mma(?:\.sp(?:::\w+)?)?\.sync\.[\w.:]+")
_WGMMA = re.compile(r"(?<![\w.])wgmma\.mma_async\.(?:sp\.)?[\w.:]+")
_WGMMA_ANY = re.compile(r"(?<![\w.])wgmma\.")
_TCGEN05 = re.compile(r"(?<![\w.])tcgen05\.")
_WAIT = re.compile(r"(?<![\w.])griddepcontrol\.wait\b")
_GLOBAL = re.compile(  # not a prefetch: it reads nothing
    r"(?<![\w.])(ld|st|atom|red|cp(?!\.async\.bulk\.prefetch))\.[\w.:]*global\b"
)
_RESOURCE = re.compile(r"\b(REG|STACK|SHARED|LOCAL):(\d+)")


@dataclass(frozen=True)
class Measurement:
    """One compilation. Bytes, except ``registers`` (a thread's) and ``seconds``; all zero when ``error`` is set.

    ``shared`` is what a block uses in all. ``stack`` and ``local`` are a thread's: registers that did not fit end up
    there. ``mma`` are the kinds of tensor-core instruction ("bf16", "e4m3", "mxf8f6f4", "tf32", "f16", "wgmma bf16",
    ...), ``foreign`` the instruction families in the PTX that no SM12x has. ``early`` are the instructions on global memory
    before the first wait for the kernel before ("ld", "st", "atom", ...); None if it never waits.
    """

    shared: int = 0
    registers: int = 0
    stack: int = 0
    local: int = 0
    mma: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    early: tuple[str, ...] | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def spilled(self) -> int:
        """Bytes of a thread outside its registers."""
        return self.stack + self.local

    def as_json(self) -> dict[str, Any]:
        """For the result cache and the pipe; ``from_json`` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Measurement:
        """Raises TypeError or KeyError for anything but the output of ``as_json``."""
        early = None if data["early"] is None else tuple(data["early"])
        return Measurement(**{**data, "mma": tuple(data["mma"]), "foreign": tuple(data["foreign"]), "early": early})


def mma_kinds(ptx: str) -> tuple[str, ...]:
    """Kinds of the MMA instructions in the text, sorted. ``kind::`` names win; else the operand types do."""
    kinds = {_mma_kind(text) for text in _MMA.findall(ptx)}
    kinds |= {f"wgmma {_operands(text, text.split('.')[-2:])}" for text in _WGMMA.findall(ptx)}
    return tuple(sorted(kinds))


def foreign_instructions(ptx: str) -> tuple[str, ...]:
    """Instruction families that exist on other architectures only."""
    families = (("wgmma", _WGMMA_ANY), ("tcgen05", _TCGEN05))
    return tuple(name for name, pattern in families if pattern.search(ptx))


def before_the_wait(ptx: str) -> tuple[str, ...] | None:
    """Kinds of instructions on global memory before the first ``griddepcontrol.wait``, sorted; None without one."""
    wait = _WAIT.search(ptx)
    return None if wait is None else tuple(sorted(set(_GLOBAL.findall(ptx, 0, wait.start()))))


def resource_usage(cubin: bytes, folder: Path) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of the cubin by cuobjdump; of several functions, the largest of each.

    Raises RuntimeError when cuobjdump is missing, fails or prints no table.
    """
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    done = subprocess.run(
        [_cuobjdump(), "--dump-resource-usage", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    usage: dict[str, int] = {}
    for name, value in _RESOURCE.findall(done.stdout):
        usage[name] = max(usage.get(name, 0), int(value))
    if done.returncode or "REG" not in usage or "STACK" not in usage:
        raise RuntimeError(f"cuobjdump gave no resource table: {(done.stderr or done.stdout).strip()[:400]}")
    return usage


def _mma_kind(instruction: str) -> str:
    named = re.search(r"kind::(\w+)", instruction)
    parts = instruction.split(".")
    if named and "block_scale" in parts:
        return named.group(1)
    # ... .D.A.B.C: the types of A and B stand before the accumulator's.
    return _operands(instruction, parts[-3:-1])


def _operands(instruction: str, types: list[str]) -> str:
    if len(types) < 2:
        return instruction
    return types[0] if types[0] == types[1] else "x".join(types)


def _cuobjdump() -> str:
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    found = str(bundled) if bundled.exists() else shutil.which("cuobjdump")
    if found is None:
        raise RuntimeError(f"cuobjdump is neither at {bundled} nor on PATH: registers and spills cannot be read")
    return found
