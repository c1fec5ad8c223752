"""The model of ideal hits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ds4bench.core import RequestResult, RequestRow
from ds4bench.prefix_hits import ideal_hits, ideal_of
from tests.records import request_row

tokens = st.integers(0, 200_000)


def test_only_full_blocks_of_the_repeated_beginning_count_and_never_the_last_token() -> None:
    assert ideal_hits(1023, 2000, 256) == 768
    assert ideal_hits(1024, 2000, 256) == 1024
    assert ideal_hits(1024, 1024, 256) == 768  # the same prompt again: its last token must be computed
    assert ideal_hits(0, 2000, 256) == 0
    assert ideal_hits(1024, 2000, 256, unused_blocks=1) == 768
    assert ideal_hits(200, 2000, 256, unused_blocks=1) == 0


@given(prefix=tokens, prompt=st.integers(1, 200_000), block=st.integers(1, 512), unused=st.integers(0, 3))
def test_ideal_hits_are_whole_blocks_inside_both_texts(prefix: int, prompt: int, block: int, unused: int) -> None:
    hits = ideal_hits(prefix, prompt, block, unused)
    assert hits % block == 0
    assert 0 <= hits <= min(prefix, prompt - 1)
    assert hits <= ideal_hits(prefix, prompt, block)


def row(prompt: int | None, **expect: int | None) -> RequestRow:
    return request_row(result=RequestResult(ok=True, prompt_tokens=prompt), expect=expect)


def test_a_row_that_does_not_say_what_it_repeats_has_no_ideal() -> None:
    assert ideal_of(row(600)) is None
    assert ideal_of(row(None, prefix_tokens=512, block_size=256)) is None
    assert ideal_of(row(600, prefix_tokens=None, block_size=256)) is None
    told = row(600, prefix_tokens=500, reply_tokens=12, block_size=128, unused_blocks=1)
    assert (ideal_of(told), ideal_of(told, most=True)) == (256, 512)
