"""What runs on which machine, and what is found out about the machines before it runs."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ds4bench.errors import TargetError
from ds4bench.targets.cluster_plan import ClusterPlan
from ds4bench.targets.engine import Launch, plan_launch
from ds4bench.targets.node_preflight import check_nodes
from ds4bench.targets.nodes import remote_words
from ds4bench.targets.profile import TargetProfile, load_profile

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15"


def launch(name: str, *extra: str, **options: Any) -> Launch:
    return plan_launch(load_profile("vllm", name), "/models/v4", extra, port=8000, **options)


def there(plan: ClusterPlan) -> dict[str, str]:
    """Title of each process -> the shell text that its machine gets."""
    return {command.title: command.words()[-1] for command in plan.processes}


def test_vllms_own_processes_get_the_same_serve_on_every_node_and_headless_followers() -> None:
    plan = launch("gb10-2node-mp").cluster
    assert plan is not None
    texts = there(plan)
    assert list(texts) == ["worker on node worker (192.168.100.11)", "serve on node head (192.168.100.10)"]
    worker, head = texts.values()
    assert "--nnodes 2 --node-rank 1 --master-addr 192.168.100.10 --master-port 29501 --headless" in worker
    assert head.endswith("--nnodes 2 --node-rank 0 --master-addr 192.168.100.10 --master-port 29501")
    assert "VLLM_HOST_IP=192.168.100.11 " in worker
    assert "VLLM_HOST_IP=192.168.100.10 " in head
    for text in texts.values():
        assert "--tensor-parallel-size 2" in text
        assert "--enable-prompt-tokens-details" in text
        assert "--distributed-executor-backend mp" in text


def test_a_ray_cluster_is_started_on_every_node_and_serves_from_the_head() -> None:
    plan = launch("gb10-2node-ray").cluster
    assert plan is not None
    texts = list(there(plan).values())
    assert len(texts) == 3
    assert "start --head --node-ip-address=192.168.100.10 --port=6379" in texts[0]
    assert "start --address=192.168.100.10:6379 --node-ip-address=192.168.100.11" in texts[1]
    assert all("--block" in text for text in texts[:2])  # it lives as long as the run
    assert "--distributed-executor-backend ray" in texts[2]
    assert "nnodes" not in texts[2]
    assert "RAY_ADDRESS=192.168.100.10:6379" in texts[2]
    assert plan.joined is not None
    assert plan.joined.command[-2:] == ("192.168.100.10:6379", "2")


def test_a_dry_run_shows_every_node_by_its_real_command() -> None:
    text = launch("gb10-2node-mp").shell_text()
    assert "# worker on node worker (192.168.100.11):" in text
    assert f"{SSH} 192.168.100.11 'exec env " in text
    assert "# serve on node head (192.168.100.10):\nsh -c 'exec env " in text


def test_a_plugins_switches_reach_every_node() -> None:
    plan = launch("gb10-2node-mp", environment={"DS4_KERNELS": "force"}).cluster
    assert plan is not None
    assert all("DS4_KERNELS=force" in text for text in there(plan).values())


def test_a_copy_of_the_profile_needs_only_its_own_machines(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\ntitle: t\nengine: vllm\nkind: launch\nextends: vllm-gb10-2node-mp\ncluster:\n  nodes:\n"
        "    - {node: head, host: a, address: 10.0.0.1}\n"
        "    - {node: worker, host: b, address: 10.0.0.2, python: /opt/v/bin/python, environment: {NCCL_IB_HCA: roce1}}\n"
    )
    plan = launch(str(mine), engine_python="/venv/bin/python").cluster
    assert plan is not None
    worker, head = plan.processes
    assert worker.words()[-2] == "b"
    assert "NCCL_IB_HCA=roce1" in worker.words()[-1]
    assert "/opt/v/bin/python -m vllm" in worker.words()[-1]
    assert "/venv/bin/python -m vllm" in head.words()[-1]
    assert "--master-addr 10.0.0.1" in worker.words()[-1]


def test_the_api_listens_where_this_machine_can_reach_it(tmp_path: Path) -> None:
    assert launch("gb10-2node-mp").base_url == "http://127.0.0.1:8000"
    mine = tmp_path / "mine.yaml"
    head = "{node: head, host: 10.0.0.1, remote: 'ssh {host} {command}'}"
    mine.write_text(
        "name: mine\ntitle: t\nengine: vllm\nkind: launch\nextends: vllm-gb10-2node-mp\n"
        f"cluster: {{nodes: [{head}, {{node: worker, host: 10.0.0.2}}]}}\n"
    )
    assert launch(str(mine)).base_url == "http://10.0.0.1:8000"


@pytest.mark.parametrize(
    "template",
    ["sh -c {command}", 'sh -c "cd / && {command_}"', "sh -c 'exec sh -c {command}'", "env A=1 sh -c {command}"],
)
def test_a_remote_template_brings_any_command_unchanged(template: str) -> None:
    """Each word of the command must arrive as it is, through one shell or through two."""
    words = ["printf", "%s|", "a b", "it's", '{"x": "$HOME"}', "*", "", "back\\slash"]
    template = template.replace("{command_}", "sh -c {command}")
    done = subprocess.run(remote_words(template, "h", shlex.join(words)), capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{word}|" for word in words[2:])


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("{nodes: [{node: a, host: x}]}", "cluster.nodes"),
        ("{remote: 'ssh {host}'}", "has no {command}"),
        ("{nodes: [{node: a, host: x}, {node: a, host: y}]}", "two nodes have the same name"),
        ("{follower_flags: null}", "nothing to run"),
        ("{nods: []}", "cluster.nods"),
    ],
)
def test_a_mistake_in_a_cluster_names_file_and_field(tmp_path: Path, cluster: str, words: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"name: mine\ntitle: t\nengine: vllm\nkind: launch\nextends: vllm-gb10-2node-mp\ncluster: {cluster}\n"
    )
    with pytest.raises(TargetError, match=words) as caught:
        load_profile("vllm", str(mine))
    assert "mine.yaml" in str(caught.value)


def test_what_the_cluster_sets_cannot_be_given_beside_it() -> None:
    with pytest.raises(TargetError, match="--node-rank comes from cluster: in profile vllm-gb10-2node-mp"):
        launch("gb10-2node-mp", "--node-rank=3")


# -- what the machines are asked --


def cluster_profile(tmp_path: Path, head: dict[str, Any] | None = None, worker: dict[str, Any] | None = None) -> Launch:
    """Two nodes that are both this machine; their python finds a package ``engine`` of version 1.0."""
    node = {"remote": "sh -c {command}", "gpus": 0, "environment": {"PYTHONPATH": str(package(tmp_path, "1.0"))}}
    nodes = [
        {"node": "head", "host": "127.0.0.1", **node, **(head or {})},
        {"node": "worker", "host": "127.0.0.2", **node, **(worker or {})},
    ]
    shipped = load_profile("vllm", "gb10-2node-mp").model_dump(by_alias=True)
    cluster = {**shipped["cluster"], "nodes": nodes, "cluster_port": free()}
    profile = TargetProfile.model_validate({**shipped, "module": "engine", "cluster": cluster})
    return plan_launch(profile, str(model(tmp_path)), engine_python=sys.executable)


def package(tmp_path: Path, version: str, name: str = "engine") -> Path:
    folder = tmp_path / f"{name}-{version}"
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / f"{name}.py").write_text("raise SystemExit('found, not imported')\n")
    return folder


def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def asked_of(launch: Launch) -> None:
    assert launch.cluster is not None
    await check_nodes(launch.cluster, "engine", (launch.host, launch.port))


async def test_nodes_that_can_start_tell_their_versions(tmp_path: Path) -> None:
    launch = cluster_profile(tmp_path)
    assert launch.cluster is not None
    facts = await check_nodes(launch.cluster, "engine", (launch.host, launch.port))
    assert {name: fact.versions["engine"] for name, fact in facts.items()} == {"head": "1.0", "worker": "1.0"}


@pytest.mark.parametrize(
    ("worker", "words"),
    [
        ({"remote": "sh -c 'echo no route to host >&2; exit 255; {command}'"}, r"not reachable: no route to host; this must"),
        ({"remote": "no-such-ssh {host} {command}"}, "is not reachable: no-such-ssh: No such file"),
        ({"remote": "sh -c 'exec sh -c {command} </dev/null'"}, "does not pass on standard input; `docker exec` needs -i"),
        ({"python": "/no/such/python"}, "no working python at /no/such/python"),
        ({"environment": {}}, "engine is not installed for"),
        ({"model": "/no/such/model"}, "no model at /no/such/model"),
        ({"address": "192.0.2.7"}, "192.0.2.7 is no address of that machine"),
        ({"gpus": 99}, "GPUs visible, 99 needed"),
    ],
)  # fmt: skip
async def test_what_is_wrong_on_a_node_is_one_line_that_names_it(
    tmp_path: Path, worker: dict[str, Any], words: str
) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        await asked_of(cluster_profile(tmp_path, worker=worker))
    assert str(caught.value).startswith("node worker (127.0.0.2)")
    assert "\n" not in str(caught.value)


async def test_nodes_with_another_engine_version_are_refused(tmp_path: Path) -> None:
    other = {"environment": {"PYTHONPATH": str(package(tmp_path, "1.1"))}}
    with pytest.raises(TargetError, match=r"node worker \S+ has engine 1.1, node head \S+ has 1.0; install the same"):
        await asked_of(cluster_profile(tmp_path, worker=other))


async def test_a_kernel_plugin_on_one_node_only_is_refused(tmp_path: Path) -> None:
    both = f"{package(tmp_path, '1.0')}:{package(tmp_path, '0.7', 'ds4-kernels')}"
    launch = cluster_profile(tmp_path, worker={"environment": {"PYTHONPATH": both}})
    with pytest.raises(TargetError, match=r"has ds4-kernels 0.7, node head \S+ has "):
        await asked_of(launch)


async def test_kernels_that_are_asked_for_need_their_plugin_on_every_node(tmp_path: Path) -> None:
    asked = {"DS4_KERNELS": "force", "PYTHONPATH": str(package(tmp_path, "1.0"))}
    bare = {"environment": asked, "python": os.path.realpath(sys.executable)}  # outside of this environment
    with pytest.raises(
        TargetError, match=r"node head .*ds4-kernels is not installed for .*; node worker .*ds4-kernels"
    ):
        await asked_of(cluster_profile(tmp_path, bare, bare))


async def test_a_port_in_use_on_the_head_is_named(tmp_path: Path) -> None:
    launch = cluster_profile(tmp_path)
    assert launch.cluster is not None
    port = launch.cluster.cluster.cluster_port
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(TargetError, match=rf"^node head \(127.0.0.1\): port {port} is in use"),
    ):
        await asked_of(launch)


async def test_every_node_with_a_problem_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"node head .*no model at /a.*; node worker .*no model at /b"):
        await asked_of(cluster_profile(tmp_path, {"model": "/a"}, {"model": "/b"}))
