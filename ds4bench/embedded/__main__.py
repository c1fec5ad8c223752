"""``python -m ds4bench.embedded``: serve the embedded engine. ``ds4bench serve embedded`` calls the same ``main``."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ds4bench.embedded.config import (
    FLASH_LAYERS,
    GPU_BATCHED_TOKENS,
    GPU_BLOCKS,
    MAX_SPECULATIVE_TOKENS,
    EngineConfig,
    ModelConfig,
    flash,
)
from ds4bench.embedded.faults import table as fault_table

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ds4bench.embedded.device.profiler import OpProfiler
    from ds4bench.embedded.faults.base import Chosen

_DEFAULTS = EngineConfig()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code (2 for a port or a device that cannot be had)."""
    options = _parser().parse_args(argv)
    if options.list_faults:
        print(fault_table.listing())  # noqa: T201
        return 0
    if options.die_with_parent:
        _die_with_parent()
    os.nice(options.nice)
    try:
        listener = socket.create_server((options.host, options.port), backlog=2048)
    except OSError as error:
        message = f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another --port"
        print(message, file=sys.stderr)  # noqa: T201
        return 2
    host, port = listener.getsockname()[:2]
    try:
        profiler = _profiler(options)
        app = _build(options, profiler)
    except ValueError as error:  # a device or checkpoint that is not there, settings that exclude each other
        print(error, file=sys.stderr)  # noqa: T201
        listener.close()
        return 2
    _announce(app, f"http://{host}:{port}", port, options.port_file)
    if profiler is not None:
        _report_at_end(app, profiler, options.profile_ops)

    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _parser() -> argparse.ArgumentParser:
    about = "Serve the embedded engine over the OpenAI API."
    parser = argparse.ArgumentParser(prog="ds4bench serve embedded", description=about)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_within(0, 65_535), default=8000, help="0 picks a free one (default 8000)")
    parser.add_argument("--port-file", type=Path, help="write the port here once the serve is ready")
    parser.add_argument("--no-prefix-caching", action="store_true", help="never reuse a prompt's beginning")
    parser.add_argument("--max-model-len", type=int, default=_DEFAULTS.max_model_len, metavar="TOKENS")
    parser.add_argument("--max-num-seqs", type=int, default=_DEFAULTS.max_num_seqs)
    parser.add_argument(
        "--max-num-batched-tokens",
        type=int,
        metavar="TOKENS",
        help=f"prefill chunk (default {_DEFAULTS.max_num_batched_tokens}, on cuda {GPU_BATCHED_TOKENS})",
    )
    parser.add_argument(
        "--num-speculative-tokens",
        type=int,
        choices=range(MAX_SPECULATIVE_TOKENS + 1),
        default=_DEFAULTS.num_speculative_tokens,
        help="tokens that the model's MTP block drafts in each step (default 0: none)",
    )
    parser.add_argument(
        "--num-blocks",
        type=int,
        metavar="BLOCKS",
        help=f"KV blocks of 256 positions (default {_DEFAULTS.num_blocks}, on cuda {GPU_BLOCKS})",
    )
    parser.add_argument("--device", default=_DEFAULTS.device, help="cpu (default) or cuda")
    parser.add_argument(
        "--dims",
        choices=["tiny", "flash"],
        help="random weights of these dimensions: tiny, or DeepSeek-V4-Flash's layers, made on the device",
    )
    parser.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help=f"layers of --dims flash, 1 to {FLASH_LAYERS} (default: as many as the GPU's memory holds)",
    )
    parser.add_argument("--enforce-eager", action="store_true", help="on cuda: decode without CUDA graphs")
    parser.add_argument(
        "--no-warm-up", action="store_true", help="on cuda: compile and capture when first needed, not at the start"
    )
    parser.add_argument(
        "--profile-ops",
        nargs="?",
        const="",
        metavar="FILE",
        help="time every op; print the shares at the end, and write them to FILE (JSON). Costs some speed",
    )
    parser.add_argument(
        "--backend",
        choices=["auto", "fused", "ops"],
        default=_DEFAULTS.backend,
        help="fused: the model made for CPUs; ops: the ops of ds4_kernels; auto (default): ops on cuda, else fused",
    )
    parser.add_argument("--threads", type=_within(1, 1024), help="CPU threads (default: all cores)")
    parser.add_argument(
        "--weights",
        metavar="nano|random|DIR",
        help="nano (default): the trained weights that come with the package; random; or the folder of a checkpoint "
        "(python -m ds4bench.embedded.training or .random_checkpoint makes one)",
    )
    parser.add_argument(
        "--chat-profile",
        choices=["0.33", "2026-05"],
        default="0.33",
        help="whose chat format: 0.33 (default) thinks unless told not to, 2026-05 only when told to, as vLLM then did",
    )
    parser.add_argument("--seed", type=int, default=_DEFAULTS.seed, help="seed of the random weights")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:ARGUMENT]",
        help="for testing gates: serve with this fault (--list-faults has them), which /version and every run then show; "
        "may be repeated",
    )
    parser.add_argument("--list-faults", action="store_true", help="say what faults there are, and stop")
    parser.add_argument(
        "--prefill-delay-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="short for --fault slow-prefill:PERCENT%%; 0.2 is 20 %%",
    )
    parser.add_argument(
        "--nice",
        type=_within(0, 19),
        default=0,
        help="lower this process's priority: a client on the same cores must not wait for it (0 to 19, default 0)",
    )
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the launching process is gone")
    return parser


def _within(low: int, high: int) -> Callable[[str], int]:
    """An argument's type: whole numbers in a range."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def _weights_folder(options: argparse.Namespace) -> Path | None:
    """Where the trained weights lie; None for random ones. Raises ValueError for settings that exclude each other."""
    from ds4bench.embedded import stored

    shaped = options.dims is not None or options.layers is not None
    if options.weights not in (None, "random") and shaped:
        raise ValueError("--dims and --layers choose random weights: leave out --weights")
    if options.weights == "random" or shaped:
        return None
    return stored.NANO if options.weights in (None, "nano") else Path(options.weights)


def _build(options: argparse.Namespace, profiler: OpProfiler | None) -> Starlette:
    from ds4bench import __version__
    from ds4bench.embedded import stored
    from ds4bench.embedded.device.random_weights import RandomWeights
    from ds4bench.embedded.engine import Engine
    from ds4bench.embedded.faults.base import Serve
    from ds4bench.embedded.metrics import EngineMetrics
    from ds4bench.embedded.runner import ModelRunner
    from ds4bench.embedded.server import ChatFormat, ServeInfo, build_app
    from ds4bench.embedded.tokenizer import Tokenizer

    faults = _faults(options)
    tokenizer = Tokenizer()
    folder = _weights_folder(options)
    config = _engine_config(options)
    model = _model(options, config, tokenizer.vocab_size) if folder is None else stored.read_config(folder)
    checkpoint = None if folder is None else stored.read(folder)
    config = replace(config, max_model_len=min(config.max_model_len, model.max_position))
    fault_table.check(faults, config)
    runner: ModelRunner | None = None

    def make_runner() -> ModelRunner:
        nonlocal runner
        made = RandomWeights(model, config.seed, config.device) if options.dims == "flash" else None
        runner = ModelRunner(model, config, made or checkpoint, profiler=profiler)
        return runner

    speculative = config.num_speculative_tokens
    engine = Engine(make_runner, tokenizer, config, EngineMetrics(model.name, speculative))
    assert runner is not None
    chat = ChatFormat(options.chat_profile)
    serve = Serve(runner, engine, chat)
    engine.in_thread(lambda: fault_table.install(faults, serve))
    if not options.no_warm_up:  # behind the faults: a graph keeps what it has captured
        engine.in_thread(runner.warm_up)
    info = ServeInfo(
        version=__version__,
        model=model.name,
        weights="random" if folder is None or stored.is_random(folder) else "trained",
        model_revision=runner.weights_revision,
        prefix_caching=config.enable_prefix_caching,
        speculative=f"mtp:{speculative}" if speculative else None,
        flags={
            "block_size": config.block_size,
            "num_blocks": config.num_blocks,
            "max_num_seqs": config.max_num_seqs,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "max_model_len": config.max_model_len,
            "num_speculative_tokens": speculative,
            "threads": config.num_threads,
            "device": config.device,
            "backend": "ops" if config.uses_ops else "fused",
            "num_layers": model.num_layers,
            "cuda_graphs": runner.uses_graphs,
            "chat_profile": options.chat_profile,
            **({"kernels": _kernels(config)} if config.uses_ops else {}),
        },
        faults=[*(fault.text for fault in faults), *(_wrong_ops() if config.uses_ops else [])],
    )
    return build_app(engine, info, chat)


def _kernels(config: EngineConfig) -> dict[str, str]:
    """What runs each op on this device, by the op table."""
    from ds4_kernels import ops

    return {choice.op: choice.backend for choice in ops.describe(config.device)}


def _wrong_ops() -> list[str]:
    """Ops that the environment makes wrong on purpose: faults like the others."""
    from ds4_kernels import ops

    return [f"kernel:{name}:{factor:g}" for name, factor in ops.sabotaged().items()]


def _engine_config(options: argparse.Namespace) -> EngineConfig:
    blocks, chunk = _DEFAULTS.num_blocks, _DEFAULTS.max_num_batched_tokens
    if options.device != "cpu":
        blocks, chunk = GPU_BLOCKS, GPU_BATCHED_TOKENS
    return replace(
        _DEFAULTS,
        num_blocks=blocks if options.num_blocks is None else options.num_blocks,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=chunk if options.max_num_batched_tokens is None else options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        enable_prefix_caching=not options.no_prefix_caching,
        num_threads=options.threads,
        seed=options.seed,
        device=options.device,
        backend=options.backend,
        num_speculative_tokens=options.num_speculative_tokens,
        enforce_eager=options.enforce_eager,
    )


def _model(options: argparse.Namespace, config: EngineConfig, vocab_size: int) -> ModelConfig:
    """The model of random weights. Raises ValueError for settings that exclude each other."""
    if options.dims != "flash":
        if options.layers is not None:
            raise ValueError("--layers needs --dims flash")
        return ModelConfig(vocab_size=vocab_size)
    if not config.uses_ops:
        raise ValueError("--dims flash runs on the ops backend: add --device cuda (or --backend ops)")
    from ds4bench.embedded.device.memory import flash_that_fits

    return flash(options.layers, vocab_size) if options.layers is not None else flash_that_fits(config, vocab_size)


def _profiler(options: argparse.Namespace) -> OpProfiler | None:
    if options.profile_ops is None:
        return None
    if options.backend == "fused" or (options.backend == "auto" and options.device == "cpu"):
        raise ValueError("--profile-ops times the ops backend: add --device cuda (or --backend ops)")
    from ds4bench.embedded.device.profiler import OpProfiler
    from ds4bench.embedded.runner import require_device

    require_device(options.device)
    return OpProfiler(options.device)


def _report_at_end(app: Starlette, profiler: OpProfiler, path: str) -> None:
    """When the application has stopped: print the profile, and write it where it was asked for."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        async with inner(application):
            yield
        print(profiler.text(), flush=True)  # noqa: T201
        if path:
            profiler.write(Path(path))

    app.router.lifespan_context = lifespan


def _faults(options: argparse.Namespace) -> list[Chosen]:
    share = options.prefill_delay_share
    return fault_table.choose([*options.fault, *([f"slow-prefill:{share * 100:g}%"] if share else [])])


def _announce(app: Starlette, url: str, port: int, port_file: Path | None) -> None:
    """Once the application has started: write the port file, whole at once, and print the address."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        async with inner(application):
            if port_file is not None:
                partial = port_file.with_suffix(".partial")
                partial.write_text(f"{port}\n")
                partial.rename(port_file)
            print(f"ds4bench embedded engine ready at {url} (Ctrl-C stops it)", flush=True)  # noqa: T201
            yield

    app.router.lifespan_context = lifespan


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that happens."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it went away in between
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
