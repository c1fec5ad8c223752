"""The SGLang plugin: its table against SGLang's source, and its hooks in SGLang's own registry where that is installed.

``DS4_TEST_SGLANG_SOURCES`` names a folder with an unpacked SGLang wheel. The registry itself needs nothing but Python, so it
runs here without SGLang's environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ds4_kernels import ops
from ds4_kernels.engines import hooks, sglang, sources
from ds4_kernels.engines.hook import Hook, decline

RECORD = Path(__file__).parent / "sglang_signatures.json"
"""Parameters read off the published wheel: ``{version: {target: [names]}}``."""
ROWS = [
    pytest.param(version, hook, id=f"{version} {hook.name}")
    for version, rows in sglang.table().items()
    for hook in rows
]


@pytest.fixture
def wheel() -> Path:
    """The unpacked wheel."""
    folder = os.environ.get("DS4_TEST_SGLANG_SOURCES")
    if not folder:
        pytest.skip("DS4_TEST_SGLANG_SOURCES names no unpacked SGLang wheel")
    return Path(folder)


@pytest.mark.parametrize(("version", "hook"), ROWS)
def test_a_hook_expects_what_the_published_wheel_has(version: str, hook: Hook) -> None:
    assert list(hook.parameters) == json.loads(RECORD.read_text())[version][hook.target]


@pytest.mark.parametrize(("version", "hook"), ROWS)
def test_a_hook_fits_the_unpacked_wheel(version: str, hook: Hook, wheel: Path) -> None:
    assert sources.parameters(wheel, hook.target) == hook.parameters


@pytest.mark.parametrize(("version", "hook"), ROWS)
def test_a_hook_names_an_op_and_an_adapter(version: str, hook: Hook) -> None:
    assert hook.op in ops.TABLE
    assert callable(hook.factory(lambda *args, **kwargs: None))
    assert set(hook.writes) <= set(hook.parameters)


def test_the_entry_point_leads_to_the_plugin() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["sglang.srt.plugins"]["ds4_kernels"]
    module, _, name = target.partition(":")
    assert (module, getattr(sglang, name)) == (sglang.__name__, sglang.register)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"SGLANG_SM120_TRITON_FLASHMLA": "1"}, {"SGLANG_SM120_FLASHMLA_BACKEND": "triton"}),
        ({"SGLANG_SM120_TRITON_FLASHMLA": "0"}, {"SGLANG_SM120_FLASHMLA_BACKEND": "torch"}),
        (
            {"SGLANG_SM120_MQA_FALLBACK": "true"},
            {"SGLANG_FP8_PAGED_MQA_LOGITS_TORCH": "1", "SGLANG_OPT_USE_TILELANG_INDEXER": "0"},
        ),
        ({"SGLANG_SM120_MQA_FALLBACK": "0"}, {}),
        ({"SGLANG_SM120_TRITON_FLASHMLA": "1", "SGLANG_SM120_FLASHMLA_BACKEND": "flashinfer"}, {}),
    ],
)
def test_variables_of_the_first_patches_mean_what_todays_mean(given: dict[str, str], becomes: dict[str, str]) -> None:
    environ = dict(given)
    sglang.map_seed_variables(environ)
    assert environ == {**becomes, **given}


# -- SGLang's own registry --


@pytest.fixture
def registry(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The real ``HookRegistry`` of the wheel, alone: the packages around it are empty."""
    names = ["sglang", "sglang.srt", "sglang.srt.plugins", "sglang.kernels"]
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    path = wheel / "sglang/srt/plugins/hook_registry.py"
    spec = importlib.util.spec_from_file_location("sglang.srt.plugins.hook_registry", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    sys.modules["sglang.srt.plugins"].hook_registry = module  # type: ignore[attr-defined]
    spec.loader.exec_module(module)
    yield module.HookRegistry
    module.HookRegistry.reset()


def op_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands for a module of SGLang with an op in it."""
    module = types.ModuleType("sglang.kernels.op")

    def doubled(x: torch.Tensor, times: int = 1) -> torch.Tensor:
        return x * 2 * times

    doubled.__module__ = module.__name__
    module.doubled = doubled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sys.modules["sglang.kernels"].op = module  # type: ignore[attr-defined]
    return module


def ours(original: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(x: torch.Tensor, times: int = 1) -> Any:
        return decline("three times") if times == 3 else x * 10 * times

    return replaced


HOOK = Hook("mhc_post", "sglang.kernels.op:doubled", ("x", "times"), ours)


def installed(hook: Hook = HOOK) -> Any:
    return hooks.install("sglang", {"0.5.23": [hook]}, "0.5.23", put=sglang.put_in_registry)


def test_a_hook_runs_through_the_registry_and_declines_to_the_original(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    module = op_module(monkeypatch)
    importer = types.ModuleType("sglang.kernels.importer")
    importer.doubled = module.doubled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, importer.__name__, importer)
    report = installed()
    one = torch.ones(2)
    assert module.doubled(one).tolist() == [10, 10]
    assert importer.doubled(one, times=2).tolist() == [20, 20]  # the registry finds copies
    assert module.doubled(one, 3).tolist() == [6, 6]
    [state] = report.hooks
    assert (state.state, state.calls, state.declined) == ("installed", 2, {"three times": 1})
    assert "sglang.kernels.op.doubled" in registry._patched


def test_an_unfit_signature_steps_back_with_one_line(
    registry: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    logging.getLogger("sglang").handlers.clear()
    module = op_module(monkeypatch)
    report = installed(Hook("mhc_post", HOOK.target, ("x", "factor"), ours))
    assert module.doubled(torch.ones(1)).tolist() == [2]
    [state] = report.hooks
    assert (state.state, state.reason) == ("skipped", "signature (x, times), expected (x, factor)")
    assert registry._patched == set()


def test_a_target_of_another_plugin_is_left_to_it(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    module = op_module(monkeypatch)
    registry_module = sys.modules["sglang.srt.plugins.hook_registry"]
    registry.register("sglang.kernels.op.doubled", lambda fn, x: fn(x) + 1, registry_module.HookType.AROUND)
    registry.apply_hooks()
    report = installed()
    assert module.doubled(torch.ones(1)).tolist() == [3]
    assert report.hooks[0].state == "skipped"


def test_a_module_that_comes_later_is_hooked_when_it_comes(
    registry: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    (tmp_path / "op.py").write_text("def doubled(x, times=1):\n    return x * 2 * times\n")
    sys.modules["sglang.kernels"].__path__ = [str(tmp_path)]
    report = installed()
    assert report.hooks[0].state == "pending"
    monkeypatch.delitem(sys.modules, "sglang.kernels.op", raising=False)
    module = importlib.import_module("sglang.kernels.op")
    assert module.doubled(torch.ones(1)).tolist() == [10]
    assert report.hooks[0].state == "installed"
    del sys.modules["sglang.kernels.op"]


def test_without_sglang_the_plugin_replaces_nothing_and_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "engine_version", lambda engine: None)
    sglang.register()
    assert hooks.reports()["sglang"].hooks == []


def test_another_version_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "engine_version", lambda engine: "0.6.0")
    sglang.register()
    assert "no table for sglang 0.6.0" in hooks.reports()["sglang"].note
