"""The project's own byte-level BPE tokenizer with DeepSeek's special tokens, and incremental detokenisation."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as _HFTokenizer

from ds4bench.embedded.chat.special_tokens import BOS, END_THINK, EOS, SPECIAL_TOKENS, TOKENS_IN_TEXT

ASSET = Path(__file__).with_name("assets") / "tokenizer.json"
_REPLACEMENT = "\ufffd"


class Tokenizer:
    """Text to token ids and back. Special tokens in the text are recognised."""

    def __init__(self, path: Path = ASSET) -> None:
        self._tokenizer = _HFTokenizer.from_file(str(path))
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.bos_id = self.special_id(BOS)
        self.eos_id = self.special_id(EOS)
        self.end_think_id = self.special_id(END_THINK)
        self.hidden_ids = frozenset(self.special_id(token) for token in set(SPECIAL_TOKENS) - set(TOKENS_IN_TEXT))

    def special_id(self, token: str) -> int:
        """Id of a special token. Raises KeyError if the vocabulary lacks it."""
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise KeyError(f"the tokenizer has no token {token!r}")
        return int(token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids; incomplete UTF-8 shows as U+FFFD."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def token_text(self, token_id: int) -> str:
        """Text of one token alone."""
        return self.decode([token_id])


class IncrementalDetokenizer:
    """Text of a growing token list; half a UTF-8 character is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []

    def add(self, token_id: int) -> str:
        """The text that this token completes. Special tokens give none, except those that are part of a reply's text."""
        if token_id in self._tokenizer.hidden_ids:
            return self.flush()
        self._pending.append(token_id)
        text = self._tokenizer.decode(self._pending)
        if text.endswith(_REPLACEMENT) and len(self._pending) < 4:  # a UTF-8 character has at most four bytes
            return ""
        self._pending.clear()
        return text

    def flush(self) -> str:
        """What is held back, as it is."""
        text = self._tokenizer.decode(self._pending) if self._pending else ""
        self._pending.clear()
        return text
