"""Fake engines written to disk and really imported; sources of real ones where the machine has them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ds4_kernels import ops
from ds4_kernels.engines import hooks, importing

SOURCES = "DS4_TEST_VLLM_SOURCES"
"""``0.25.0=DIR:0.33.0=DIR``: folders that hold unpacked vLLM wheels."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting and no hook of one test reaches the next."""
    for name in [name for name in os.environ if name.startswith("DS4_KERNELS")]:
        monkeypatch.delenv(name)
    finders = list(sys.meta_path)
    ops._hooked_backend.cache_clear()
    yield
    hooks._installed.clear()
    importing._waiting.clear()
    sys.meta_path[:] = finders


@pytest.fixture(params=["reference", pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.interpreted])])
def each_backend(request: pytest.FixtureRequest, _fresh: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both: the kernels (interpreted here) check strides and alignment that the reference does not care for."""
    monkeypatch.setenv("DS4_KERNELS", request.param)
    return str(request.param)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """``engine(name="source", ...)`` writes modules of the package ``fakeengine`` (dots as ``__``); returns its folder."""
    folder = tmp_path / "fakeengine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules: str) -> Path:
        for name, source in modules.items():
            path = folder.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return tmp_path

    yield write
    for name in [name for name in sys.modules if name == "fakeengine" or name.startswith("fakeengine.")]:
        del sys.modules[name]


@pytest.fixture
def vllm_sources() -> Callable[[str], Path]:
    """``vllm_sources("0.25.0")``: the folder with that version's package; skips where there is none."""
    pairs = dict(part.split("=", 1) for part in os.environ.get(SOURCES, "").split(":") if part)

    def find(version: str) -> Path:
        if version not in pairs:
            pytest.skip(f"needs vLLM {version} unpacked and named in {SOURCES}")
        return Path(pairs[version])

    return find
