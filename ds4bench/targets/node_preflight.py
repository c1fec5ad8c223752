"""What can be said about the machines of a cluster before anything is launched, so that a mistake costs seconds."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ds4bench.errors import TargetError
from ds4bench.targets.cluster_plan import ClusterPlan
from ds4bench.targets.node_run import Done, run_to_end
from ds4bench.targets.nodes import Node, remote_words, shell_text

_TIMEOUT_S = 60.0
_SAID = "ds4bench reached this node"
_HEARD = b"and this node hears it"
_SAME_IF_PRESENT = ("ds4-kernels",)
"""A plugin on one machine only would make the machines compute different things."""

_PROBE = """
import importlib.metadata as m, importlib.util as u, json, os, pathlib, socket, subprocess, sys
wanted = json.loads(sys.argv[1])
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
def found(name):
    try: return u.find_spec(name) is not None
    except (ImportError, ValueError): return False
def refused(address, port):
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((socket.gethostbyname(address), port)); s.listen(1)
    except OSError as error: return error.strerror or str(error)
def gpus():
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [x for x in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if x.strip() and x.strip() != "-1"]
    try: done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except OSError: return []
    return [line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]
model = pathlib.Path(wanted["model"]).expanduser()
print(json.dumps({
    "modules": {n: found(n) for n in wanted["modules"]},
    "versions": {n: version(n) for n in wanted["modules"] + wanted["plugins"]},
    "python": "%d.%d" % sys.version_info[:2],
    "model": model.exists() and (not model.is_dir() or (model / "config.json").is_file()),
    "address": refused(wanted["address"], 0), "ports": {str(p): refused(a, p) for a, p in wanted["ports"]},
    "gpus": gpus(),
}))
"""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself: versions by distribution (None: not installed), its python, its GPUs."""

    versions: Mapping[str, str | None]
    python: str
    gpus: Sequence[str]


async def check_nodes(plan: ClusterPlan, module: str | None, api: tuple[str, int]) -> dict[str, NodeFacts]:
    """Facts of every node by its name, all nodes asked at once. Raises TargetError that names node and fix for each
    problem: not reachable, no interpreter, engine missing or of another version, no model, port in use, too few GPUs."""
    modules = [*([module] if module else []), *plan.cluster.modules]
    checks = [_check(plan, node, modules, _ports(plan, node, api)) for node in plan.cluster.nodes]
    facts: dict[str, NodeFacts] = {}
    problems: list[str] = []
    for node, answer in zip(plan.cluster.nodes, await asyncio.gather(*checks), strict=True):
        if isinstance(answer, NodeFacts):
            facts[node.name] = answer
        else:
            problems += answer
    problems = problems or _differences(plan, facts)
    if problems:
        raise TargetError("; ".join(problems))
    return facts


def _ports(plan: ClusterPlan, node: Node, api: tuple[str, int]) -> list[tuple[str, int]]:
    """Addresses that a node must be able to listen on."""
    return [api, (node.reached_by, plan.cluster.cluster_port)] if node is plan.cluster.head else []


async def _check(
    plan: ClusterPlan, node: Node, modules: Sequence[str], ports: Sequence[tuple[str, int]]
) -> NodeFacts | list[str]:
    problem = await _unreachable(plan.cluster.remote_of(node), node)
    if problem:
        return [problem]
    done = await run_to_end(_probe_words(plan, node, modules, ports), _TIMEOUT_S)
    try:
        told = json.loads(done.out.strip().splitlines()[-1])
        return _problems(plan, node, told) or NodeFacts(told["versions"], told["python"], told["gpus"])
    except (ValueError, IndexError, KeyError, TypeError):
        return [_no_python(plan.python_of(node), node, done)]


async def _unreachable(remote: str, node: Node) -> str:
    """Why a command does not get there, or its standard input does not; empty when both do."""
    command = f"echo {shlex.quote(_SAID)}; exec head -c {len(_HEARD)}"
    reached = await run_to_end(remote_words(remote, node.host, command), _TIMEOUT_S, text=_HEARD)
    if reached.code == 0 and reached.out == f"{_SAID}\n{_HEARD.decode()}":
        return ""
    if reached.code == 0 and _SAID in reached.out:
        return f"{node}: its remote command does not pass on standard input; `docker exec` needs -i, `ssh` must not have -n"
    shown = shlex.join(remote_words(remote, node.host, "true"))
    return f"{node} is not reachable: {reached.last_line()}; this must work without a question: {shown}"


def _probe_words(plan: ClusterPlan, node: Node, modules: Sequence[str], ports: Sequence[tuple[str, int]]) -> list[str]:
    wanted = {
        "modules": list(modules),
        "plugins": list(_SAME_IF_PRESENT),
        "model": plan.model_of(node),
        "address": node.reached_by,
        "ports": list(ports),
    }
    command = [plan.python_of(node), "-c", _PROBE, json.dumps(wanted)]
    environment = next(c.environment for c in plan.processes if c.node is node)
    return remote_words(plan.cluster.remote_of(node), node.host, shell_text(command, environment))


def _no_python(python: str, node: Node, done: Done) -> str:
    return (
        f"{node}: no working python at {python}: {done.last_line()}; give python: for this node in the profile, or "
        "--engine-python for all"
    )


def _problems(plan: ClusterPlan, node: Node, told: Mapping[str, Any]) -> list[str]:
    """One line for each thing that would make the launch fail there."""
    python, model = plan.python_of(node), plan.model_of(node)
    needed = {**told["modules"], **_plugins_asked_for(plan, told["versions"])}
    lines = [
        f"{node}: {name} is not installed for {python}; install it there, or give python: for this node"
        for name, there in needed.items()
        if not there
    ]
    if _is_path(model) and not told["model"]:
        lines.append(f"{node}: no model at {model} (a folder with config.json); copy it there, or give model: for it")
    if told["address"] is not None:
        lines.append(
            f"{node}: {node.reached_by} is no address of that machine ({told['address']}); set host: or address: to the "
            "one that the other nodes reach it by"
        )
    else:
        lines += [
            f"{node}: port {port} is in use ({why}); end what listens there, or give another --port or cluster_port:"
            for port, why in told["ports"].items()
            if why is not None
        ]
    if len(told["gpus"]) < node.gpus:
        lines.append(
            f"{node}: {len(told['gpus'])} GPUs visible, {node.gpus} needed; look at nvidia-smi and CUDA_VISIBLE_DEVICES "
            "there, or set gpus:"
        )
    return lines


def _plugins_asked_for(plan: ClusterPlan, versions: Mapping[str, str | None]) -> dict[str, bool]:
    """Whether the kernel plugin is there, where the environment asks for it."""
    asked = plan.serve.environment.get("DS4_KERNELS", "off") != "off"
    return {name: versions[name] is not None for name in _SAME_IF_PRESENT} if asked else {}


def _is_path(model: str) -> bool:
    return model.startswith(("/", ".", "~"))


def _differences(plan: ClusterPlan, facts: Mapping[str, NodeFacts]) -> list[str]:
    """Every node must run the same code as the head."""
    head, *others = plan.cluster.nodes
    lines = []
    for node in others:
        ours, theirs = facts[head.name], facts[node.name]
        for name, version in {**ours.versions, "python": ours.python}.items():
            there = theirs.python if name == "python" else theirs.versions.get(name)
            if there != version:
                lines.append(
                    f"{node} has {name} {there or 'not installed'}, {head} has {version or 'none'}; install the same on both"
                )
    return lines
