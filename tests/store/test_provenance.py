"""Provenance and published tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds4bench.errors import StoreError
from ds4bench.store import provenance
from ds4bench.store.published import load_published

ROOT = Path(__file__).resolve().parents[2]


def test_provenance_names_code_packages_and_machine() -> None:
    known = provenance.collect()
    assert known["hardware"]["cores"] >= 1
    assert {"httpx", "msgspec", "numpy"} <= known["packages"].keys()
    assert len(known["git"]["commit"]) == 40
    json.dumps(known)


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "published").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_source_loads_and_says_whose_it_is(path: Path) -> None:
    source = load_published(path.stem)
    assert source.source == path.stem
    assert source.hardware
    assert source.date
    assert all(rows for rows in source.tables.values())


def test_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(StoreError, match="vllm-41834"):
        load_published("nobody")
