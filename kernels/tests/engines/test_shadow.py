"""Shadow mode: the engine's result stays, ours never touches the engine's memory, the worst difference is kept."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from ds4_kernels.engines import shadow
from ds4_kernels.engines.hook import Hook, decline
from ds4_kernels.engines.hooks import install
from ds4_kernels.engines.report import Difference

OPS = """
def insert(x, cache):
    cache[: x.shape[0]] = x
    return None

def call(**kwargs):
    kwargs["out"].copy_(kwargs["x"])
"""


def plug(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> Any:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    monkeypatch.setenv("DS4_KERNELS_SHADOW", "1")
    return install("fakeengine", {"1.0": (hook,)}, version="1.0")


def insert(factor: float) -> Any:
    def make(original: Any) -> Any:
        def ours(x: torch.Tensor, cache: torch.Tensor) -> Any:
            if x.shape[0] == 3:
                return decline("3 rows")
            cache[: x.shape[0]] = x * factor
            return None

        return ours

    return make


def test_the_engine_gets_its_own_result_and_the_error_is_recorded(engine: Any, monkeypatch: Any, capsys: Any) -> None:
    engine(ops=OPS)
    hook = Hook("cache_insert", "fakeengine.ops:insert", ("x", "cache"), insert(1.25), writes=("cache",))
    report = plug(monkeypatch, hook)
    module = importlib.import_module("fakeengine.ops")
    cache = torch.zeros(4, 2)
    module.insert(torch.tensor([[1.0, -4.0]]), cache)
    assert cache.tolist() == [[1.0, -4.0], *[[0.0, 0.0]] * 3]
    worst = report.hooks[0].shadow["cache"]
    assert (worst.max_abs, worst.max_rel, worst.calls) == (1.0, 0.25, 1)
    assert worst.min_cosine == pytest.approx(1.0)
    module.insert(torch.tensor([[0.5, 0.5]]), cache)
    module.insert(torch.ones(3, 2), cache)
    assert (worst.max_abs, worst.calls, report.hooks[0].declined) == (1.0, 2, {"3 rows": 1})
    assert (
        capsys.readouterr().err.count("shadow cache_insert@insert: cache [4, 2] float32: max abs 1, max rel 0.25") == 1
    )


def test_an_output_among_the_keywords_is_cloned_and_compared(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    make = lambda original: lambda **kwargs: kwargs["out"].fill_(7.0)  # noqa: E731
    hook = Hook("mhc_post", "fakeengine.ops:call", ("kwargs",), make, ("out",), lambda arguments, outputs: outputs[-1:])
    report = plug(monkeypatch, hook)
    out = torch.zeros(2)
    importlib.import_module("fakeengine.ops").call(x=torch.ones(2), out=out)
    assert out.tolist() == [1.0, 1.0]
    assert [worst.max_abs for worst in report.hooks[0].shadow.values()] == [6.0]


def test_what_the_contract_leaves_undefined_is_cut_away(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    cut = lambda arguments, outputs: [outputs[0][: arguments["x"].shape[0], :1]]  # noqa: E731

    def make(original: Any) -> Any:
        def ours(x: torch.Tensor, cache: torch.Tensor) -> None:
            cache.fill_(99.0)
            cache[: x.shape[0], :1] = x[:, :1]

        return ours

    report = plug(monkeypatch, Hook("cache_insert", "fakeengine.ops:insert", ("x", "cache"), make, ("cache",), cut))
    importlib.import_module("fakeengine.ops").insert(torch.ones(2, 2), torch.zeros(4, 2))
    assert report.hooks[0].shadow["cache"].max_abs == 0.0


def test_our_failure_leaves_the_engines_result(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    hook = Hook("cache_insert", "fakeengine.ops:insert", ("x", "cache"), lambda original: lambda x, cache: 1 / 0)
    report = plug(monkeypatch, hook)
    cache = torch.zeros(2, 2)
    importlib.import_module("fakeengine.ops").insert(torch.ones(2, 2), cache)
    assert cache.tolist() == [[1.0, 1.0]] * 2 and report.hooks[0].state == "failed"


def test_a_choice_is_left_to_the_engine(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    hook = Hook("mhc_post", "fakeengine.ops:call", ("kwargs",), lambda original: lambda **kwargs: 5, shadow=False)
    plug(monkeypatch, hook)
    assert importlib.import_module("fakeengine.ops").call(x=torch.ones(1), out=torch.zeros(1)) is None


def compared(ours: torch.Tensor, theirs: torch.Tensor) -> Difference:
    worst = Difference()
    shadow.compare(ours, theirs, worst)
    return worst


def test_infinities_in_the_same_places_are_equal_and_elsewhere_a_mismatch() -> None:
    inf, nan = float("inf"), float("nan")
    same = compared(torch.tensor([1.0, -inf, nan]), torch.tensor([1.0, -inf, nan]))
    assert (same.mismatch, same.max_abs, same.min_cosine) == (0.0, 0.0, 1.0)
    assert compared(torch.tensor([1.0, 2.0, inf, 0.0]), torch.tensor([1.0, 2.0, -inf, nan])).mismatch == 0.5


def test_integers_count_and_shapes_must_agree() -> None:
    assert compared(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 4])).mismatch == 0.25
    wrong = compared(torch.ones(2), torch.ones(3))
    assert wrong.mismatch == 1.0 and wrong.shape == "[3] float32 against [2]"


def test_a_result_that_is_zero_where_the_engines_is_not_has_no_cosine() -> None:
    assert compared(torch.zeros(3), torch.ones(3)).min_cosine == 0.0
    assert compared(torch.zeros(3), torch.zeros(3)).min_cosine == 1.0


def test_large_tensors_are_compared_in_parts(monkeypatch: Any) -> None:
    monkeypatch.setattr(shadow, "CHUNK", 7)
    theirs = torch.randn(101, generator=torch.Generator().manual_seed(3))
    ours = theirs.clone()
    ours[93] += 2.0
    worst = compared(ours, theirs)
    expected = torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=0).item()
    assert worst.max_abs == pytest.approx(2.0) and worst.min_cosine == pytest.approx(expected, abs=1e-9)


def test_a_clone_keeps_the_strides_of_a_padded_cache_but_not_a_whole_pool() -> None:
    padded = torch.arange(4 * 10).view(4, 10)[:, :8]
    copy = shadow.clone(padded)
    assert copy.stride() == padded.stride() and torch.equal(copy, padded) and copy.data_ptr() != padded.data_ptr()
    packed = torch.arange(4 * 100).view(4, 100)[:, :8]
    copy = shadow.clone(packed)
    assert copy.stride() == (8, 1) and torch.equal(copy, packed)
