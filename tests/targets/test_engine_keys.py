"""A launched engine that wants a key: who knows it, what happens when nobody does, and that no file ever has it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ds4bench import env
from ds4bench.errors import TargetError
from ds4bench.targets.engine import EngineTarget, plan_launch
from ds4bench.targets.profile import load_profile
from tests.targets.fake_serve import GATE, PROFILE, ds4bench, fake_processes, gone_soon

pytestmark = pytest.mark.integration

KEY = "sk-of-this-test-0123456789"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(env, "_kept", [])
    for name in ("VLLM_API_KEY", "DS4BENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "fake.yaml"
    path.write_text(PROFILE)
    return path


def target(profile: Path, *extra: str, environment: dict[str, str] | None = None) -> EngineTarget:
    launch = plan_launch(load_profile("vllm", str(profile)), "wants-key", extra, environment=environment)
    return EngineTarget(launch, profile.parent / "serve.log", ready_deadline_s=60.0)


@pytest.mark.parametrize(
    ("flags", "shell", "given"),
    [
        (("--api-key", KEY), None, None),
        ((), KEY, None),
        ((), "another-key-of-the-shell", {"VLLM_API_KEY": KEY}),
        (("--api-key", KEY), "another-key-of-the-shell", None),
    ],
)
async def test_a_key_that_is_known_is_sent_and_shown_nowhere(
    profile: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    shell: str | None,
    given: dict[str, str] | None,
) -> None:
    if shell:
        monkeypatch.setenv("VLLM_API_KEY", shell)
    engine = target(profile, *flags, environment=given)
    lines: list[str] = []
    try:
        endpoint = await engine.start(lines.append)
    finally:
        await engine.stop()
    assert endpoint.headers == {"Authorization": f"Bearer {KEY}"}
    assert "  INFO non-default args: api_key ***" in lines
    command = (profile.parent / "serve.log").read_text().splitlines()[0]
    for shown in (*lines, command, engine.launch.shell_text(), str(endpoint), str(endpoint.fingerprint)):
        assert KEY not in shown
    assert not flags or endpoint.fingerprint.flags["api-key"] == "***"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (None, r"answers HTTP 401: it wants a key: export DS4BENCH_API_KEY"),
        ("not-this-one-either", r"answers HTTP 401: it refuses the key from DS4BENCH_API_KEY"),
    ],
)
async def test_an_engine_that_wants_a_key_nobody_knows_is_given_up_at_once(
    profile: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, words: str
) -> None:
    if own:
        monkeypatch.setenv("DS4BENCH_API_KEY", own)
    engine = target(profile)
    with pytest.raises(TargetError, match=words):
        await engine.start(lambda _: None)
    assert engine.pid is not None
    assert gone_soon(engine.pid)


async def test_this_users_key_for_serves_is_tried_when_the_engine_has_its_own_from_a_file(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS4BENCH_API_KEY", "of-a-config-file")
    engine = target(profile)
    try:
        assert (await engine.start(lambda _: None)).model == "fake"
    finally:
        await engine.stop()


def test_a_gate_leaves_the_launch_command_and_no_key_in_any_file_of_the_run(profile: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(GATE)
    process = ds4bench(
        tmp_path, "gate", "small.yaml", "--target", "vllm", "--model", "wants-key", "--serve-profile", str(profile),
        "--serve-arg=--api-key", f"--serve-arg={KEY}", "--repeats", "1", "--quiet",
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    (run,) = (tmp_path / ".ds4bench" / "runs").iterdir()
    files = {path.name: path.read_text() for path in run.rglob("*") if path.is_file()}
    assert "fake_engine.py wants-key" in files["run.json"], err
    assert "--api-key" in files["run.json"]
    assert "non-default args: api_key ****" in files["serve.log"]
    assert not [name for name, text in {**files, "out": out, "err": err}.items() if KEY in text]
    assert fake_processes(tmp_path) == []


@pytest.mark.parametrize("flag", ["--port=9000", "--host=0.0.0.0", "--uds=/tmp/serve"])
@pytest.mark.parametrize("name", ["h200", "gb10-2node-mp"])
def test_an_address_among_the_engines_flags_is_refused_before_anything_starts(name: str, flag: str) -> None:
    with pytest.raises(
        TargetError, match=r"ds4bench has to know the address: give the port with ds4bench's own --port"
    ):
        plan_launch(load_profile("vllm", name), "m", [flag], port=8000)


def test_several_machines_are_shown_without_the_key() -> None:
    launch = plan_launch(load_profile("vllm", "gb10-2node-mp"), "m", ["--api-key", KEY], port=8000)
    assert KEY not in launch.shell_text()
    assert "--api-key" in launch.shell_text()
    assert launch.cluster is not None
    assert any(KEY in word for word in launch.cluster.serve.words())  # what runs has it


def test_an_engine_that_listens_on_ipv6_is_asked_there() -> None:
    profile = load_profile("vllm", "h200")
    assert plan_launch(profile, "m", host="::1", port=8000).base_url == "http://[::1]:8000"
    assert plan_launch(profile, "m", host="::", port=8000).base_url == "http://[::1]:8000"


async def test_a_host_that_is_not_this_machines_is_not_called_a_port_in_use(profile: Path) -> None:
    plan = load_profile("vllm", str(profile))
    for host in ("192.0.2.1", "no.such.host.invalid"):
        engine = EngineTarget(plan_launch(plan, "healthy", host=host, port=8000), profile.parent / "serve.log")
        with pytest.raises(TargetError, match=f"--host {host} is no address of this machine"):
            await engine.start(lambda _: None)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
async def test_a_port_of_ipv6_is_looked_at_as_such(profile: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as owner:
        port = owner.getsockname()[1]
        launch = plan_launch(load_profile("vllm", str(profile)), "healthy", host="::1", port=port)
        with pytest.raises(TargetError, match=f"port {port} is in use on ::1"):
            await EngineTarget(launch, profile.parent / "serve.log").start(lambda _: None)
