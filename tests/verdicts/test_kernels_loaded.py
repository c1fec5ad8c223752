"""``kernels_loaded``: a run is only what its serve's processes prove that it was."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckStatus, KernelHook, KernelProcess, KernelUse, Verdict
from ds4bench.verdicts.checks.kernels import kernels_loaded
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.evidence import gather
from tests.verdicts.conftest import World


def hook(op: str, group: str = "mhc", **changes: Any) -> KernelHook:
    return KernelHook(**{"hook": f"{op}@f", "op": op, "group": group, "state": "installed", "calls": 5, **changes})


def process(*hooks: KernelHook, **changes: Any) -> KernelProcess:
    return KernelProcess(
        **{"pid": 7, "process": "worker", "engine": "vllm", "mode": "force", "hooks": list(hooks), **changes}
    )


def api_server() -> KernelProcess:
    """Loads the plugin, computes nothing."""
    return process(hook("mhc_post", calls=0), hook("route", "moe", calls=0, state="pending"), pid=1)


def use(*launches: list[KernelProcess], selection: list[str] | None = None) -> KernelUse:
    choice = "bundled" if selection is None else f"ops={','.join(selection)}" if selection else "engine"
    return KernelUse(choice=choice, selection=selection, launches=list(launches))


@pytest.fixture
def check(world: World):
    def run(kernels: KernelUse | None, **fingerprint: Any):
        gate = world.gate()
        told = {"engine": "vllm", "kernels": kernels, **fingerprint}
        return kernels_loaded(gather(gate, world.run(gate, fingerprint=told), None))

    return run


def test_hooks_that_ran_in_every_worker_are_proof(check) -> None:
    workers = [api_server(), process(hook("mhc_post")), process(hook("mhc_post"), pid=8)]
    result = check(use(workers), flags={"tensor-parallel-size": "2"})
    assert result.status is CheckStatus.OK
    assert "2 workers ran mhc_post" in result.detail


def test_a_hook_that_only_chooses_a_class_proves_and_spoils_nothing(check) -> None:
    """The engine's own class may stay, when the calls inside of it are hooked."""
    chooser = hook("sparse_attention_decode", "attn", calls=0, declined={"its calls are hooked": 6}, computes=False)
    inside = hook("sparse_attention_decode", "attn")
    assert check(use([process(chooser, inside)])).status is CheckStatus.OK
    only = check(use([process(chooser, hook("mhc_post"))], selection=["attn", "mhc"]))
    assert only.status is CheckStatus.FAILED
    assert "attn never ran" in only.detail


def test_a_worker_less_than_ranks_is_no_proof(check) -> None:
    result = check(use([api_server(), process(hook("mhc_post"))]), flags={"tensor-parallel-size": "2"})
    assert result.status is CheckStatus.FAILED
    assert "ran in 1 of 2 workers" in result.detail


@pytest.mark.parametrize(
    ("kernels", "why"),
    [
        (use([]), "no process of the engine reports its kernels"),
        (use([process(note="no table for vllm 0.32.0")]), "no table for vllm 0.32.0"),
        (use([process(hook("mhc_post", state="skipped", reason="signature (a)"))]), "was skipped (signature (a))"),
        (use([process(hook("mhc_post", state="failed", reason="boom"))]), "was failed (boom)"),
        (use([process(hook("mhc_post", calls=0, inactive=3))]), "went to the engine's own kernel (inactive"),
        (
            use([process(hook("mhc_post", calls=0, traced=2), hook("mhc_pre"))]),
            "all 2 calls of mhc_post@f in process 7 went to the engine's own kernel (compiled by torch.compile",
        ),
        (use([process(hook("mhc_post", calls=0, declined={"page": 3}))]), "went to the engine's own kernel (page)"),
        (use([process(hook("mhc_post"), mode="off")]), "was told DS4_KERNELS=off"),
        (use([process(hook("mhc_post"), ops="moe")]), "DS4_KERNELS_OPS=moe"),
        (use([process(hook("mhc_post"), shadow=True)]), "process 7 ran with DS4_KERNELS_SHADOW=1"),
        (use([process(hook("mhc_post"), ops="mhc,moe")], selection=["mhc", "moe"]), "moe never ran in process 7"),
        (use([process(hook("mhc_post"))], [process(hook("mhc_post", calls=0))]), "ran in 0 of 1 workers"),
    ],
)
def test_everything_less_is_invalid_and_says_why(check, kernels: KernelUse, why: str) -> None:
    result = check(kernels)
    assert result.status is CheckStatus.FAILED
    assert why in result.detail


def test_an_op_that_the_engine_never_calls_is_named_and_no_fault_of_all_ops(check) -> None:
    result = check(use([process(hook("mhc_post"), hook("mhc_head", calls=0))]))
    assert result.status is CheckStatus.OK
    assert "never called by the engine: mhc_head" in result.detail


def test_hooks_that_were_not_selected_do_not_count(check) -> None:
    hooks = (hook("mhc_post"), hook("route", "moe", state="skipped", reason="not in DS4_KERNELS_OPS", calls=0))
    assert check(use([process(*hooks, ops="mhc_post")], selection=["mhc_post"])).status is CheckStatus.OK


def test_the_engines_own_kernels_means_that_nothing_was_replaced(check) -> None:
    assert check(use([process(mode="off", note="DS4_KERNELS=off")], selection=[])).status is CheckStatus.OK
    result = check(use([process(hook("mhc_post"))], selection=[]))
    assert result.status is CheckStatus.FAILED
    assert "was installed in process 7 all the same" in result.detail


@pytest.mark.parametrize(
    ("selection", "device", "backends", "status"),
    [
        (None, "cuda", {"mhc_post": "triton", "route": "reference"}, CheckStatus.OK),
        (None, "cuda", {"mhc_post": "reference"}, CheckStatus.FAILED),
        (None, "cpu", {"mhc_post": "reference"}, CheckStatus.NOT_APPLICABLE),
        (None, "cpu", None, CheckStatus.FAILED),  # the fused CPU model
        ([], "cuda", {"mhc_post": "reference"}, CheckStatus.OK),
        ([], "cuda", {"mhc_post": "triton"}, CheckStatus.FAILED),
    ],
)
def test_the_embedded_engine_tells_by_its_op_table(check, selection, device, backends, status) -> None:
    kernels = KernelUse(choice="c", selection=selection, backends=backends)
    result = check(kernels, engine="ds4bench-embedded", flags={"device": device})
    assert result.status is status


def test_a_run_on_other_kernels_than_asked_is_invalid(world: World) -> None:
    gate = world.gate()
    run = world.run(gate, fingerprint={"kernels": use([]), "engine": "vllm"})
    verdict = decide(gate, run, world.baseline(world.run(gate)))
    assert verdict.verdict is Verdict.INVALID
    assert "install ds4-kernels into the engine's environment" in verdict.sentence


def test_a_serve_without_a_choice_of_kernels_has_no_such_line(world: World) -> None:
    gate = world.gate()
    verdict = decide(gate, world.run(gate), world.baseline(world.run(gate)))
    assert "kernels_loaded" not in [result.name for result in verdict.checks]
