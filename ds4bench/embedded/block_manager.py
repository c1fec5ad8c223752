"""Paged blocks with reference counts and prefix caching.

A full block is known by the hash of its tokens and of everything before them (a chain seeded with the cache salt). A
free block keeps its content until it is needed for something else, least recently freed first, so a later prompt with
the same beginning takes it back as it is. Only full blocks are shared; a shared block is never written.

What the MTP block keeps for a position depends on the token behind it too. With a ``lookahead`` of 1 the token behind a
block is therefore part of its hash, and a block is known only once that token is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from ds4bench.embedded.sequence import Sequence


@dataclass
class Block:
    """A physical block: who uses it and, once full, what it holds."""

    ref_count: int = 0
    digest: bytes | None = None
    token_ids: list[int] = field(default_factory=list)


class BlockManager:
    """Hands out blocks of ``block_size`` positions, whose content depends on ``lookahead`` tokens behind them."""

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool, lookahead: int = 0) -> None:
        self.block_size = block_size
        self.lookahead = lookahead
        self.enable_prefix_caching = enable_prefix_caching
        self.blocks = [Block() for _ in range(num_blocks)]
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.cached: dict[bytes, int] = {}

    @property
    def usage(self) -> float:
        """Share of blocks in use, 0..1."""
        return 1 - len(self.free) / len(self.blocks)

    def match_prefix(self, seq: Sequence) -> int:
        """Give a sequence without blocks the cached blocks of its beginning; returns the tokens they hold.

        At least one token is left to compute, since the last token's logits are not cached.
        """
        if not self.enable_prefix_caching:
            return 0
        digest = _seed(seq.cache_salt)
        limit = (seq.num_tokens - 1) // self.block_size
        for index in range(limit):
            token_ids = self._content(seq, index)
            digest = _chain(digest, token_ids)
            block_id = self.cached.get(digest)
            if block_id is None or self.blocks[block_id].token_ids != token_ids:
                break
            self._take(block_id)
            seq.block_ids.append(block_id)
            seq.block_hashes.append(digest)
        return len(seq.block_ids) * self.block_size

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Make the sequence's blocks cover ``num_tokens`` positions; False, and no change, if too few are free."""
        missing = -(-num_tokens // self.block_size) - len(seq.block_ids)
        if missing > len(self.free):
            return False
        for _ in range(missing):
            block_id = next(iter(self.free))
            self.forget(block_id)
            self._take(block_id)
            seq.block_ids.append(block_id)
        return True

    def register_full(self, seq: Sequence) -> None:
        """Make the sequence's newly full blocks known, after the step that filled them."""
        if not self.enable_prefix_caching:
            return
        while (len(seq.block_hashes) + 1) * self.block_size <= min(seq.num_computed, seq.num_tokens - self.lookahead):
            index = len(seq.block_hashes)
            token_ids = self._content(seq, index)
            digest = _chain(seq.block_hashes[-1] if index else _seed(seq.cache_salt), token_ids)
            seq.block_hashes.append(digest)
            if digest in self.cached:
                continue  # another sequence computed the same block meanwhile: this copy stays private
            block = self.blocks[seq.block_ids[index]]
            block.digest, block.token_ids = digest, token_ids
            self.cached[digest] = seq.block_ids[index]

    def release(self, seq: Sequence) -> None:
        """Give the sequence's blocks back, last first, so that the beginning of a prompt is evicted last."""
        for block_id in reversed(seq.block_ids):
            block = self.blocks[block_id]
            block.ref_count -= 1
            if block.ref_count == 0:
                self.free[block_id] = None
        seq.block_ids.clear()
        seq.block_hashes.clear()

    def forget(self, block_id: int) -> None:
        """No later prompt finds this block; whoever uses it keeps it."""
        block = self.blocks[block_id]
        if block.digest is not None:
            del self.cached[block.digest]
            block.digest = None
            block.token_ids = []

    def reset_cache(self) -> None:
        """Forget every cached block; running sequences keep theirs."""
        for block in self.blocks:
            block.digest = None
            block.token_ids = []
        self.cached.clear()

    def _content(self, seq: Sequence, index: int) -> list[int]:
        """The tokens that the content of the sequence's block depends on, besides those before it."""
        return seq.tokens(index * self.block_size, (index + 1) * self.block_size + self.lookahead)

    def _take(self, block_id: int) -> None:
        block = self.blocks[block_id]
        if block.ref_count == 0:
            del self.free[block_id]
        block.ref_count += 1


def _seed(cache_salt: str) -> bytes:
    return hashlib.blake2b(cache_salt.encode(), digest_size=16).digest()


def _chain(before: bytes, token_ids: list[int]) -> bytes:
    payload = b"".join(t.to_bytes(4, "little") for t in token_ids)
    return hashlib.blake2b(before + payload, digest_size=16).digest()
