"""``ds4-kernels``: options and one call each, no logic. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ds4_kernels import __version__

_ARCHS = ("sm_90", "sm_120", "sm_121")

_EPILOG = """\
where to start:
  ds4-kernels doctor                         what runs on this machine, and why not the rest
  ds4-kernels compile                        do all kernels fit SM12x? needs no GPU
  ds4-kernels check                          do the kernels agree with the PyTorch reference?
  ds4-kernels bench                          how fast are they, against copy bandwidth and matmul peak?

exit codes: 0 all well, 1 something is wrong with the kernels, 2 wrong use
"""

_COMPILE = """\
Compile every shipped kernel configuration ahead of time and check its binary. Needs no GPU.

A configuration fails when it does not compile, uses more shared memory than a block has (101,376 bytes on SM12x, 232,448
on sm_90), spills registers, contains wgmma or tcgen05 on SM12x, or lacks the tensor-core instruction that it declares:
then Triton emulates the dot without a word. Results are kept in ~/.cache/ds4-kernels, so a second run is quick.
"""

_COMPILE_EXAMPLES = """\
examples:
  ds4-kernels compile                                    all configurations for sm_120 and sm_121
  ds4-kernels compile --arch sm_90 --op mqa_logits_paged one op, for Hopper
  ds4-kernels compile --subset --json gate.json          a part that rotates by day: for CI, within 3 minutes
  ds4-kernels compile --subset --seed 7                  the part of seed 7 again

"half-rate FP8 before Triton 3.8" on sm_121 is a downgrade, not a failure: results are right, FP8 runs at the 16-bit rate.
"""

_DOCTOR = """\
Show the GPUs, torch, Triton, which backend every op gets and why, and which tuning table is used. With --engine-python:
which hooks the plugin would install in the engine of another environment, and which not and why.
"""

_DOCTOR_EXAMPLES = """\
examples:
  ds4-kernels doctor
  ds4-kernels doctor --json | python -m json.tool
  ds4-kernels doctor --engine-python ~/vllm/.venv
"""

_CHECK = """\
Compare the Triton kernels with the PyTorch reference on random inputs, edge cases included.

On a GPU every case also runs in a CUDA graph that is replayed on other inputs. Without one, --device cpu runs the small
cases in Triton's interpreter, slowly.
"""

_CHECK_EXAMPLES = """\
examples:
  ds4-kernels check                                      every op on the GPU
  ds4-kernels check --op mqa_logits_paged --seed 3       one op, other random inputs
  ds4-kernels check --op attn --json check.json          a group of ops, results also in a file
  ds4-kernels check --device cpu                         small cases, without a GPU
"""

_BENCH = """\
Time every op on this machine's GPU: microseconds, share of the measured copy bandwidth and of the measured matmul peak.
"""

_BENCH_EXAMPLES = """\
examples:
  ds4-kernels bench
  ds4-kernels bench --op mqa_logits_paged --op sparse_attention_decode
  ds4-kernels bench --peer vllm --json bench.json        beside the kernels of the vLLM installed here
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; wrong options end in SystemExit(2), as argparse has it."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.module is None:
        parser.print_help()
        return 2
    command: Callable[[Any], int] = importlib.import_module(args.module).main
    try:
        return command(args)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ds4-kernels",
        description="DeepSeek-V4-Flash kernels for SM12x GPUs: compile gate, diagnosis, correctness, speed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ds4-kernels {__version__}")
    parser.set_defaults(module=None)
    commands = parser.add_subparsers(title="commands", metavar="")
    _add_compile(commands)
    _add_doctor(commands)
    _add_check(commands)
    _add_bench(commands)
    return parser


def _add_compile(commands: Any) -> None:
    command = _add(
        commands,
        "compile",
        "ds4_kernels.compile_gate.run",
        "compile all configurations without a GPU and check them",
        _COMPILE,
        _COMPILE_EXAMPLES,
    )
    command.add_argument(
        "--arch", action="append", choices=_ARCHS, help="architecture; may be repeated (default: sm_120 and sm_121)"
    )
    _add_op(command)
    command.add_argument(
        "--subset", action="store_true", help="of every kernel only the largest tile and one other, which --seed picks"
    )
    command.add_argument("--seed", type=int, metavar="N", help="which other (default: the number of the day, in UTC)")
    _add_json_file(command)
    command.add_argument(
        "--jobs",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="compilers at once (default: all cores)",
    )
    command.add_argument(
        "--timeout", type=_positive, default=300, metavar="S", help="seconds for one configuration (default: 300)"
    )
    command.add_argument("--no-cache", action="store_true", help="compile again what an earlier run has compiled")


def _add_doctor(commands: Any) -> None:
    command = _add(
        commands, "doctor", "ds4_kernels.doctor", "what runs here, and why not the rest", _DOCTOR, _DOCTOR_EXAMPLES
    )
    command.add_argument(
        "--engine-python",
        metavar="P",
        help="interpreter or environment of vLLM or SGLang: which hooks the plugin would install there, and why not",
    )
    command.add_argument("--json", action="store_true", help="print JSON (schema ds4-kernels.doctor/1)")


def _add_check(commands: Any) -> None:
    command = _add(
        commands, "check", "ds4_kernels.check", "compare the kernels with the reference", _CHECK, _CHECK_EXAMPLES
    )
    _add_op(command)
    command.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda", help="cpu: Triton's interpreter (default: cuda)"
    )
    _add_seed(command)
    command.add_argument("--large", action="store_true", help="on the CPU too: cases of real model dimensions (hours)")
    _add_json_file(command)


def _add_bench(commands: Any) -> None:
    command = _add(commands, "bench", "ds4_kernels.bench", "time the kernels on the GPU", _BENCH, _BENCH_EXAMPLES)
    _add_op(command)
    _add_seed(command)
    command.add_argument("--peer", choices=("vllm",), help="time another bundle's kernels beside ours")
    _add_json_file(command)


def _add(
    commands: Any, name: str, module: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """A subcommand that runs ``main(args)`` of ``module``."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(module=module)
    return command


def _add_op(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--op", action="append", metavar="NAME", help="only this op or group of ops; may be repeated (default: all)"
    )


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the random inputs (default: 0)")


def _add_json_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", metavar="FILE", help="write the results to FILE too")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
