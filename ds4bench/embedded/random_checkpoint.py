"""Make a checkpoint of random, healthy weights that this engine and others serve alike.

    python -m ds4bench.embedded.random_checkpoint --dims flash --layers 6 --experts 32 --out DIR --device cuda

Names, dtypes and shapes are those of the released DeepSeek-V4 checkpoints (kernels.md 1.2), with the MTP block. Two
engines, or one with two sets of kernels, then compute the same function of real size: what an engine's own dummy weights
do not give, which are mostly zero. The tensors are those of ``serve embedded --dims flash`` with the same seed on the same
kind of device, its norms rounded to BF16.

Random weights of full gain are chaotic: what one rounding changes grows from layer to layer, so that two sound sets of
kernels part within a few tokens. ``--block-gain 0.0625`` scales what every attention and feed-forward block adds to the
residual stream (exactly: powers of two in the scales of ``wo_b`` and ``w2``). Rounding then stays small, as it does with
trained weights, and an op that is wrong still shows; take that for comparisons of answers. How much of a difference
is rounding, a control shows: ``--nudge 1`` makes the same model with its embeddings moved by one BF16 step.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ds4bench.embedded import released
from ds4bench.embedded.config import FLASH_LAYERS, EngineConfig, ModelConfig, flash
from ds4bench.embedded.device.random_weights import RandomWeights
from ds4bench.embedded.runner import require_device
from ds4bench.embedded.tokenizer import Tokenizer
from ds4bench.embedded.weights import Initialiser, is_quantised_linear, scale_name

MIB = 2**20
INDEX = "model.safetensors.index.json"
EMBEDDING = "embed.weight"

_EXPERTS = ".experts."
_LAST_SCALES = ("attn.wo_b.scale", ".w2.scale")
"""Of the linears whose outputs are added to the residual stream."""

FEW_LAYERS = 6
FEW_EXPERTS = 32
"""Of ``--dims flash``, for 4 GB: all kinds of layers twice, and five times as many experts as a token has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the checkpoint; exit code 2 with one line for a setting, a device or a folder that will not do."""
    options = _parser().parse_args(argv)
    begun = time.monotonic()
    try:
        require_device(options.device)
        tokenizer = Tokenizer()
        config = shape(options.dims, tokenizer.vocab_size, options.layers, options.experts)
        if options.max_shard_mb < 1:
            raise ValueError(f"--max-shard-mb must be at least 1, not {options.max_shard_mb}")
        made = tensors(config, options.seed, options.device)
        made = changed(made, halvings_of(options.block_gain), options.nudge)
        size = write(config, made, options.out, options.max_shard_mb * MIB)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"no checkpoint made: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{config.name} in {options.out}: {size / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")  # noqa: T201
    return 0


def shape(dims: str, vocab_size: int, layers: int | None, experts: int | None) -> ModelConfig:
    """The model to make: ``flash`` in ``layers`` layers, or ``tiny``; with ``experts`` routed experts a layer.

    Raises ValueError for numbers that make no model.
    """
    if dims == "flash":
        config = flash(FEW_LAYERS if layers is None else layers, vocab_size)
        experts = FEW_EXPERTS if experts is None else experts
    elif layers is None:
        config = ModelConfig(vocab_size=vocab_size)
    else:
        raise ValueError("--layers needs --dims flash")
    if experts is None or experts == config.num_experts:
        return config
    least = config.experts_per_token
    if not least <= experts <= 256:
        raise ValueError(f"--experts must be {least} (those of a token) to 256, not {experts}")
    return replace(config, num_experts=experts, name=f"{config.name}-{experts}e")


def halvings_of(gain: float) -> int:
    """How often 1 is halved to give ``gain``. Raises ValueError unless it is 1, 1/2, 1/4, ... 1/256."""
    mantissa, exponent = math.frexp(gain)
    if mantissa != 0.5 or not -7 <= exponent <= 1:
        raise ValueError(f"--block-gain must be 1 or a power of two down to {2**-8}, not {gain}")
    return 1 - exponent


def write(config: ModelConfig, made: Iterable[tuple[str, Tensor]], folder: Path, most_bytes: int) -> int:
    """Tensors in shards of at most ``most_bytes``, their index, configuration and tokenizer; the tensors' bytes.

    Raises ValueError for a folder that is not empty, OSError for one that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    tokenizer = Tokenizer()
    released.write_config(config, folder, tokenizer, random=True)
    released.write_tokenizer(folder, config.max_position)
    shards = Shards(folder, most_bytes)
    for name, tensor in made:
        shards.add(name, tensor)
    return shards.close()


def tensors(config: ModelConfig, seed: int, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the checkpoint, on the device, one block's experts at a time."""
    weights = RandomWeights(config, seed, device)
    done = set()
    for name, _ in Initialiser(config, torch.Generator()).model():
        block, is_expert, _ = name.partition(_EXPERTS)
        if is_expert:
            if block not in done:
                done.add(block)
                yield from _experts(weights, block + _EXPERTS.rstrip("."))
        elif is_quantised_linear(name):
            matrix = weights.fp8(name)
            yield name, matrix.values
            yield scale_name(name), matrix.scale.view(released.SCALES)
        elif name.endswith("tid2eid"):
            yield name, weights.tensor(name, torch.int32)
        else:
            yield name, weights.tensor(name, released.float_dtype(name))


def changed(made: Iterable[tuple[str, Tensor]], halvings: int, nudge: int | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors with blocks of gain ``2 ** -halvings``, and with embeddings nudged by a seed."""
    for name, tensor in made:
        if name.endswith(_LAST_SCALES):
            yield name, (tensor.view(torch.uint8) - halvings).view(tensor.dtype)
        elif name == EMBEDDING and nudge is not None:
            yield name, nudged(tensor, nudge)
        else:
            yield name, tensor


def nudged(values: Tensor, seed: int) -> Tensor:
    """Every element one BF16 step up or down at random, zeros apart. Same shape, dtype and device."""
    bits = values.to(torch.bfloat16).view(torch.int16)
    step = torch.randint(2, bits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int16) * 2 - 1
    moved = torch.where(bits & 0x7FFF == 0, bits, bits + step.to(bits.device))
    return moved.view(torch.bfloat16).to(values.dtype)


def _experts(weights: RandomWeights, prefix: str) -> Iterator[tuple[str, Tensor]]:
    config = weights.config
    rows = config.expert_dim
    gate_up = weights.experts(prefix, config.num_experts, "w1", "w3")
    down = weights.experts(prefix, config.num_experts, "w2")
    parts = {"w1": (gate_up, slice(0, rows)), "w2": (down, slice(None)), "w3": (gate_up, slice(rows, None))}
    for expert in range(config.num_experts):
        for part, (stack, some) in parts.items():
            name = f"{prefix}.{expert}.{part}.weight"
            yield name, stack.packed[expert, some].view(released.EXPERT_CODES)
            yield scale_name(name), stack.scale[expert, some].view(released.SCALES)


class Shards:
    """Tensors on their way into ``model-0000i-of-0000n.safetensors``; one file's worth is held on the host at a time."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._names: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a copy. A tensor that is larger than a file may be gets a file of its own."""
        if self._held and self._held_bytes + tensor.nbytes > self._most_bytes:
            self._flush()
        self._held[name] = tensor.to("cpu", copy=True).contiguous()
        self._held_bytes += tensor.nbytes

    def close(self) -> int:
        """Write what is held, give the files their names, and write the index; bytes of all tensors."""
        self._flush()
        count = len(self._names)
        where = {}
        for number, names in enumerate(self._names, 1):
            file = f"model-{number:05}-of-{count:05}.safetensors"
            self._part(number).rename(self._folder / file)
            where.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total}, "weight_map": where}
        (self._folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
        return self._total

    def _flush(self) -> None:
        self._names.append(list(self._held))
        save_file(self._held, self._part(len(self._names)), metadata={"format": "pt"})  # transformers refuses others
        self._total += self._held_bytes
        self._held, self._held_bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05}"  # how many there will be is known at the end


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ds4bench.embedded.random_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--dims", choices=["tiny", "flash"], default="flash", help="size of a layer (default flash)")
    parser.add_argument(
        "--layers", type=int, metavar="N", help=f"of --dims flash, 1 to {FLASH_LAYERS} (default {FEW_LAYERS})"
    )
    parser.add_argument(
        "--experts",
        type=int,
        metavar="N",
        help=f"routed experts of a layer (default: {FEW_EXPERTS}, the tiny model's 8)",
    )
    parser.add_argument(
        "--block-gain", type=float, default=1.0, metavar="G", help="of every block's output (default 1; see above)"
    )
    parser.add_argument("--nudge", type=int, metavar="SEED", help="move the embeddings by one BF16 step: a control")
    parser.add_argument("--seed", type=int, default=EngineConfig().seed)
    parser.add_argument("--device", default="cpu", help="where the weights are made: cpu (default) or cuda")
    parser.add_argument("--max-shard-mb", type=int, default=1024, metavar="MIB", help="of a file (default 1024)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
