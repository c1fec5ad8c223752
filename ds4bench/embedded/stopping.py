"""Text of a growing output: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from dataclasses import dataclass

from ds4bench.embedded.sequence import TokenLogprob
from ds4bench.embedded.tokenizer import IncrementalDetokenizer, Tokenizer


@dataclass(frozen=True)
class TokenText:
    """A token and the text that became certain with it."""

    token_id: int
    text: str
    logprob: TokenLogprob | None = None


class OutputText:
    """Turns tokens into text pieces. Pieces are held back while they may be the beginning of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stop = tuple(s for s in stop if s)
        self._held: list[TokenText] = []

    def add(
        self, token_id: int, logprob: TokenLogprob | None, *, is_stop: bool = False
    ) -> tuple[list[TokenText], bool]:
        """(pieces that are certain now, whether generation stops here). A stop token itself gives no text."""
        if is_stop:
            return [*self.flush(), TokenText(token_id, "", logprob)], True
        self._held.append(TokenText(token_id, self._detokenizer.add(token_id), logprob))
        text = "".join(piece.text for piece in self._held)
        found = [position for s in self._stop if (position := text.find(s)) >= 0]
        if found:
            return self._cut(min(found)), True
        if any(_ends_with_beginning_of(text, s) for s in self._stop):
            return [], False
        pieces, self._held = self._held, []
        return pieces, False

    def flush(self) -> list[TokenText]:
        """Everything held back, because generation ends."""
        rest = self._detokenizer.flush()
        pieces, self._held = self._held, []
        if rest and pieces:
            pieces[-1] = TokenText(pieces[-1].token_id, pieces[-1].text + rest, pieces[-1].logprob)
        elif rest:
            pieces.append(TokenText(-1, rest))
        return pieces

    def _cut(self, length: int) -> list[TokenText]:
        pieces = []
        for piece in self._held:
            pieces.append(TokenText(piece.token_id, piece.text[:length], piece.logprob))
            length = max(0, length - len(piece.text))
        self._held = []
        return pieces


def _ends_with_beginning_of(text: str, stop: str) -> bool:
    return any(text.endswith(stop[:n]) for n in range(1, len(stop)))
