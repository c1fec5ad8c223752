"""``python -m ds4bench.embedded``: serve the embedded engine. ``ds4bench serve embedded`` calls the same ``main``."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ds4bench.embedded.config import MAX_SPECULATIVE_TOKENS, EngineConfig, ModelConfig

if TYPE_CHECKING:
    from starlette.applications import Starlette

_DEFAULTS = EngineConfig()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code (2 for a port or a device that cannot be had)."""
    options = _parser().parse_args(argv)
    if options.die_with_parent:
        _die_with_parent()
    os.nice(max(0, options.nice))
    try:
        listener = socket.create_server((options.host, options.port), backlog=2048)
    except OSError as error:
        message = f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another --port"
        print(message, file=sys.stderr)  # noqa: T201
        return 2
    host, port = listener.getsockname()[:2]
    try:
        app = _build(options)
    except ValueError as error:  # a device or checkpoint that is not there, settings that exclude each other
        print(error, file=sys.stderr)  # noqa: T201
        listener.close()
        return 2
    _announce(app, f"http://{host}:{port}", port, options.port_file)

    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ds4bench serve embedded", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default 8000)")
    parser.add_argument("--port-file", type=Path, help="write the port here once the serve is ready")
    parser.add_argument("--no-prefix-caching", action="store_true", help="never reuse a prompt's beginning")
    parser.add_argument("--max-model-len", type=int, default=_DEFAULTS.max_model_len, metavar="TOKENS")
    parser.add_argument("--max-num-seqs", type=int, default=_DEFAULTS.max_num_seqs)
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=_DEFAULTS.max_num_batched_tokens, help="prefill chunk, in tokens"
    )
    parser.add_argument(
        "--num-speculative-tokens",
        type=int,
        choices=range(MAX_SPECULATIVE_TOKENS + 1),
        default=_DEFAULTS.num_speculative_tokens,
        help="tokens that the model's MTP block drafts in each step (default 0: none)",
    )
    parser.add_argument("--num-blocks", type=int, default=_DEFAULTS.num_blocks, help="KV blocks of 256 positions")
    parser.add_argument("--device", default=_DEFAULTS.device, help="cpu (default) or cuda")
    parser.add_argument(
        "--backend",
        choices=["auto", "fused", "ops"],
        default=_DEFAULTS.backend,
        help="fused: the model made for CPUs; ops: the ops of ds4_kernels; auto (default): ops on cuda, else fused",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--weights",
        default="random",
        metavar="random|DIR",
        help="random weights (default), or the folder of a trained checkpoint (python -m ds4bench.embedded.training)",
    )
    parser.add_argument(
        "--chat-profile",
        choices=["0.33", "2026-05"],
        default="0.33",
        help="whose chat format: 0.33 (default) thinks unless told not to, 2026-05 only when told to, as vLLM then did",
    )
    parser.add_argument("--seed", type=int, default=_DEFAULTS.seed, help="seed of the random weights")
    parser.add_argument(
        "--prefill-delay-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="for testing gates: make each prefill step longer by this share of itself, 0.2 is 20 %%",
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        help="lower this process's priority: a client on the same cores must not wait for it (0 to 19, default 0)",
    )
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the launching process is gone")
    return parser


def _build(options: argparse.Namespace) -> Starlette:
    from ds4bench import __version__
    from ds4bench.embedded import stored
    from ds4bench.embedded.delay import PrefillDelay
    from ds4bench.embedded.engine import Engine, Runner
    from ds4bench.embedded.metrics import EngineMetrics
    from ds4bench.embedded.runner import ModelRunner
    from ds4bench.embedded.server import ServeInfo, build_app
    from ds4bench.embedded.tokenizer import Tokenizer

    tokenizer = Tokenizer()
    folder = None if options.weights == "random" else Path(options.weights)
    model = ModelConfig(vocab_size=tokenizer.vocab_size) if folder is None else stored.read_config(folder)
    checkpoint = None if folder is None else stored.read(folder)
    config = replace(
        _DEFAULTS,
        num_blocks=options.num_blocks,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=min(options.max_model_len, model.max_position),
        enable_prefix_caching=not options.no_prefix_caching,
        num_threads=options.threads,
        seed=options.seed,
        device=options.device,
        backend=options.backend,
        num_speculative_tokens=options.num_speculative_tokens,
    )
    delay = options.prefill_delay_share
    revision = ""

    def make_runner() -> Runner:
        nonlocal revision
        runner = ModelRunner(model, config, checkpoint)
        revision = runner.weights_revision
        return PrefillDelay(runner, delay) if delay else runner

    speculative = config.num_speculative_tokens
    engine = Engine(make_runner, tokenizer, config, EngineMetrics(model.name, speculative))
    info = ServeInfo(
        version=__version__,
        model=model.name,
        weights="random" if folder is None else "trained",
        model_revision=revision,
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
            "chat_profile": options.chat_profile,
        },
        faults=[f"slow-prefill:{delay:.0%}"] if delay else [],
    )
    return build_app(engine, info, options.chat_profile)


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
