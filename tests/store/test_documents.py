"""Documents on disk: whole or not at all, and of the schema that is asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ds4bench.errors import StoreError
from ds4bench.store import documents


class Note(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    text: str


def test_a_document_comes_back_from_a_folder_that_was_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "note.json"
    documents.write(path, Note(text="as it was"))
    assert documents.read(path, Note, 1) == Note(text="as it was")
    assert path.read_text().splitlines()[1] == '  "schema": 1,'
    assert [file.name for file in path.parent.iterdir()] == ["note.json"]


def test_a_write_that_fails_leaves_the_document_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    documents.write(path, Note(text="first"))

    def full(partial: Path, data: bytes) -> int:
        with partial.open("wb") as file:
            file.write(data[:5])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        documents.write(path, Note(text="second"))
    assert documents.read(path, Note, 1).text == "first"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "text": "cut', "note.json: damaged or of another version: .*; remove it"),
        ('{"schema": 1, "text": 5}', "note.json: damaged or of another version: .*; remove it"),
        ('{"schema": 2, "text": ""}', "note.json has schema 2, this ds4bench reads 1; remove it"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "note.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=said):
        documents.read(path, Note, 1, hint="; remove it")


def test_the_newest_three_are_named(tmp_path: Path) -> None:
    assert documents.newest(tmp_path / "absent") == "none"
    for name in ("a", "c", "b", "d"):
        (tmp_path / name).mkdir()
    assert documents.newest(tmp_path) == "d, c, b"
