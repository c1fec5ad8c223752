"""How many prompt tokens a prefix cache can serve: the model that measured hits are compared with.

A cache of blocks keeps whole blocks only. Of a prompt whose first ``prefix_tokens`` tokens the serve has computed before, the
full blocks of that beginning can be hits, but never the last token of the prompt: its logits must be computed.
"""

from __future__ import annotations

from ds4bench.core import RequestRow

PREFIX, REPLY, BLOCK, UNUSED = "prefix_tokens", "reply_tokens", "block_size", "unused_blocks"
"""Keys of a request's ``expect``, in tokens but the last: the repeated prompt; the reply behind it, which may be read back as
other tokens than it was written in, so that hits on it are possible but not owed; the block; blocks that are left unused."""


def ideal_hits(prefix_tokens: int, prompt_tokens: int, block_size: int, unused_blocks: int = 0) -> int:
    """Tokens that a faultless cache serves. ``unused_blocks``: at the end of a match, as vLLM does under MTP (1)."""
    blocks = max(0, min(prefix_tokens, prompt_tokens - 1)) // block_size
    return max(0, blocks - unused_blocks) * block_size


def ideal_of(row: RequestRow, *, most: bool = False) -> int | None:
    """Ideal hits of an answered request; None where its workload or the serve does not say what they follow from.

    ``most``: the most that any serve could have, with the reply and no block left unused.
    """
    prefix, prompt = row.expect.get(PREFIX), row.result.prompt_tokens
    if prefix is None or prompt is None:
        return None
    block = int(row.expect[BLOCK])
    if most:
        return ideal_hits(int(prefix) + int(row.expect.get(REPLY, 0)), prompt, block)
    return ideal_hits(int(prefix), prompt, block, int(row.expect.get(UNUSED, 0)))
