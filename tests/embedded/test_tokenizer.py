"""The tokenizer: nothing is lost, and a word has the same tokens wherever it stands."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ds4bench.embedded import train_tokenizer
from ds4bench.embedded.tokenizer import ASSET, Tokenizer

TOKENIZER = Tokenizer()
_GRAMMAR = {word.strip() for word in train_tokenizer._GRAMMAR}


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=14).filter(lambda word: word not in _GRAMMAR))
def test_a_word_has_the_same_tokens_behind_a_space_a_quote_and_an_underscore(word: str) -> None:
    """So a name goes from a request into a tool's name and an argument by copying tokens."""
    own = TOKENIZER.encode(word)
    for before, after in ((" ", "."), (" ", "?"), ('"', '"'), ("send_", '"'), (">", "</"), ("", "@"), (' "', '",')):
        tokens = TOKENIZER.encode(f"1{before}{word}{after}")
        assert any(tokens[i : i + len(own)] == own for i in range(len(tokens))), (before, word)
        assert TOKENIZER.decode(tokens[-len(TOKENIZER.encode(after)) :]) == after


@given(st.text(" .,:;?!()\"'=<>{}_-abc1\n", max_size=30), st.sampled_from([" The", " 12", " $5", "Question"]))
def test_a_reply_does_not_change_the_tokens_of_its_prompt(prompt: str, reply: str) -> None:
    """Completions go on behind a prompt such as "Answer:", which must not be merged with what follows."""
    prompt = prompt.rstrip(" ") + ":"
    assert TOKENIZER.encode(prompt + reply) == TOKENIZER.encode(prompt) + TOKENIZER.encode(reply)


def test_digits_stand_alone_and_the_padding_word_of_long_prompts_is_one_token() -> None:
    assert [TOKENIZER.token_text(i) for i in TOKENIZER.encode("a 1234")][-4:] == list("1234")
    assert len(TOKENIZER.encode(" and" * 7)) == 7


def test_the_shipped_tokenizer_is_what_its_code_makes() -> None:
    made = json.loads(train_tokenizer.train().to_str())
    assert made == json.loads(ASSET.read_text(encoding="utf-8"))
