"""A training example: pieces of text, some of them what the model shall learn to write."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Piece:
    """Text, and whether it is the model's to write."""

    text: str
    learned: bool


@dataclass
class Example:
    """Pieces in order; nothing stands between them."""

    pieces: list[Piece] = field(default_factory=list)

    def given(self, text: str) -> Example:
        """Add text of a prompt."""
        self.pieces.append(Piece(text, learned=False))
        return self

    def learned(self, text: str) -> Example:
        """Add text that the model shall write."""
        self.pieces.append(Piece(text, learned=True))
        return self

    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)
