"""What is run on which machine when a profile has several: pure, so that ``--dry-run`` shows exactly what a run starts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ds4bench import keys
from ds4bench.errors import TargetError
from ds4bench.targets.nodes import Cluster, Node, filled, remote_words, shell_text
from ds4bench.targets.profile import TargetProfile, command_line


@dataclass(frozen=True)
class NodeCommand:
    """One process of the cluster: where, what, and by which remote command it gets there."""

    node: Node
    what: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    remote: str

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.what} on {self.node}"

    def words(self, wrapper: Sequence[str] = (), *, environment: bool = True) -> list[str]:
        """What is run here, with ``wrapper`` before the command at the other end."""
        there = shell_text([*wrapper, *self.command], self.environment if environment else {})
        return remote_words(self.remote, self.node.host, there)

    def shell_text(self) -> str:
        """The same as a person would type it here, keys hidden."""
        command, environment = tuple(keys.masked(self.command)), keys.masked_environment(self.environment)
        return shlex.join(replace(self, command=command, environment=environment).words())


@dataclass(frozen=True)
class ClusterPlan:
    """Everything that runs, in the order in which it starts. ``members`` are the services and the followers' serves;
    ``serve`` answers; ``joined`` (on the head) succeeds once every node is in."""

    cluster: Cluster
    python: str
    model: str
    members: tuple[NodeCommand, ...]
    joined: NodeCommand | None
    serve: NodeCommand

    @property
    def processes(self) -> tuple[NodeCommand, ...]:
        """All that stay."""
        return (*self.members, self.serve)

    def python_of(self, node: Node) -> str:
        """The interpreter there."""
        return node.python or self.python

    def model_of(self, node: Node) -> str:
        """The model there."""
        return node.model or self.model

    def shell_text(self) -> str:
        """What is run, node by node, as a person would type it here."""
        lines = [
            f"# {len(self.cluster.nodes)} machines; at the other end a watcher runs each command and ends it, SIGTERM first, "
            "when the connection closes"
        ]
        for command in (*self.members, *([self.joined] if self.joined else []), self.serve):
            lines += [f"# {command.title}:", command.shell_text()]
        return "\n".join(lines)


def plan_cluster(
    profile: TargetProfile,
    flags: Mapping[str, object],
    extra: Sequence[str],
    *,
    python: str,
    model: str,
    api: tuple[str, int],
    environment: Mapping[str, str],
) -> ClusterPlan:
    """The commands of every node. ``api``: host and port where the serve answers. Raises TargetError for the user's own
    flags that the cluster has to set, and for a follower with more than the head."""
    cluster = profile.cluster
    assert cluster is not None
    _check_extra(profile, cluster, extra)
    builder = _Builder(cluster, python, model, api, environment)
    serve = [*profile.command, *command_line({**flags, **cluster.serve_flags}), *extra]
    members = [builder.command(cluster.head, "service", cluster.head_service)] if cluster.head_service else []
    for node in cluster.nodes[1:]:
        if cluster.follower_service:
            members.append(builder.command(node, "service", cluster.follower_service))
        if cluster.follower_flags is not None:
            members.append(builder.command(node, "worker", [*serve, *command_line(cluster.follower_flags)]))
    joined = builder.command(cluster.head, "waiting for all nodes", cluster.joined) if cluster.joined else None
    return ClusterPlan(cluster, python, model, tuple(members), joined, builder.command(cluster.head, "serve", serve))


def _check_extra(profile: TargetProfile, cluster: Cluster, extra: Sequence[str]) -> None:
    given = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in extra if word.startswith("--")}
    for name in {**cluster.serve_flags, **(cluster.follower_flags or {})}:
        if name in given:
            raise TargetError(
                f"--{name} comes from cluster: in profile {profile.name}; change it in a copy of the profile"
            )


@dataclass(frozen=True)
class _Builder:
    cluster: Cluster
    python: str
    model: str
    api: tuple[str, int]
    environment: Mapping[str, str]

    def command(self, node: Node, what: str, words: Sequence[str]) -> NodeCommand:
        """``words`` for a node, placeholders filled."""
        values = {
            "python": node.python or self.python,
            "model": node.model or self.model,
            "host": self.api[0],
            "port": str(self.api[1]),
            "node": node.reached_by,
            "head": self.cluster.head.reached_by,
            "cluster_port": str(self.cluster.cluster_port),
            "rank": str(self.cluster.nodes.index(node)),
            "nodes": str(len(self.cluster.nodes)),
        }
        environment = {**self.environment, **node.environment, "PYTHONUNBUFFERED": "1"}
        return NodeCommand(
            node,
            what,
            tuple(filled(word, values) for word in words),
            {name: filled(value, values) for name, value in environment.items()},
            self.cluster.remote_of(node),
        )
