"""The tokenizer knows every special token of the chat format."""

from __future__ import annotations

from ds4bench.embedded.chat.special_tokens import DSML, END_THINK, EOS, SPECIAL_TOKENS, THINK, USER
from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.tokenizer import IncrementalDetokenizer, Tokenizer


def test_each_special_token_is_one_token_with_the_id_of_its_place() -> None:
    tokenizer = Tokenizer()
    assert [tokenizer.encode(token) for token in SPECIAL_TOKENS] == [[i] for i in range(len(SPECIAL_TOKENS))]
    assert tokenizer.vocab_size == ModelConfig().vocab_size


def test_the_bars_are_full_width() -> None:
    assert [ord(c) for c in DSML if not c.isascii()] == [0xFF5C, 0xFF5C]
    assert "｜" in USER
    assert "|" not in "".join(SPECIAL_TOKENS)


def test_think_tags_and_dsml_are_text_of_a_reply_and_other_special_tokens_are_not() -> None:
    tokenizer = Tokenizer()
    detokenizer = IncrementalDetokenizer(tokenizer)
    text = f"{THINK}é{END_THINK}<{DSML}tool>{USER}{EOS}"
    assert "".join(map(detokenizer.add, tokenizer.encode(text))) == f"{THINK}é{END_THINK}<{DSML}tool>"
