"""Files that hold one JSON document of a known schema: written whole or not at all, read back typed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ds4bench.errors import StoreError


class _Versioned(Protocol):
    @property
    def schema(self) -> int: ...


_Document = TypeVar("_Document", bound=_Versioned)
_T = TypeVar("_T")


def write(path: Path, document: msgspec.Struct, *, indent: int = 2) -> None:
    """Keep the document, in a folder that is made if need be; ``indent`` in blanks a level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode(document, indent=indent))


def read(path: Path, kind: type[_Document], schema: int, *, hint: str = "") -> _Document:
    """Read it back. Raises FileNotFoundError, and StoreError, which ends with ``hint``, for a damaged file or another
    schema."""
    document = decode(path.read_bytes(), kind, path, hint=hint)
    if document.schema != schema:
        raise StoreError(f"{path} has schema {document.schema}, this ds4bench reads {schema}{hint}")
    return document


def encode(document: msgspec.Struct, *, indent: int = 2) -> bytes:
    """The document as a file's text."""
    return msgspec.json.format(msgspec.json.encode(document), indent=indent) + b"\n"


def decode(data: bytes, kind: type[_T], where: Path | str, *, hint: str = "") -> _T:
    """The value in ``data``. Raises StoreError that begins with ``where`` and ends with ``hint``."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{where}: damaged or of another version: {error}{hint}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: who reads it never sees a part, and a kill leaves what was there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def newest(folder: Path) -> str:
    """The last three names in a folder of things named by time, for a message; ``none`` where there are none."""
    names = sorted((path.name for path in folder.glob("*")), reverse=True) if folder.is_dir() else []
    return ", ".join(names[:3]) or "none"
