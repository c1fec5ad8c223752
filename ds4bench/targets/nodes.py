"""Several machines that serve one model: what a profile says about them, and how a command gets to a machine.

Nothing here distributes a model: vLLM does that itself, over Ray or over its own processes. A profile's ``cluster`` says
which machines there are, what runs on each, and by which command (``ssh``, ``docker exec``, ...) it is brought there.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, JsonValue, model_validator

from ds4bench.spec.base import SpecModel

Words = Annotated[list[str], Field(min_length=1)]


class Node(SpecModel):
    """One machine, called by what stands after ``node:``. ``host`` is what the remote command is given; ``address`` (None:
    the host) is what the machines reach each other by.

    None in ``remote``, ``python`` and ``model`` means the cluster's own, ``--engine-python`` and ``--model``. ``gpus`` is
    the least number of GPUs that must be visible there; 0 asks for none.
    """

    # Not "name": lists of named items merge when a profile extends another, and a list of machines must replace it.
    name: Annotated[str, Field(alias="node", min_length=1)]
    host: str
    address: str | None = None
    remote: str | None = None
    python: str | None = None
    model: str | None = None
    environment: Annotated[dict[str, str], Field(default_factory=dict)]
    gpus: Annotated[int, Field(ge=0)] = 1

    @property
    def reached_by(self) -> str:
        """The address that the other machines use."""
        return self.address or self.host

    def __str__(self) -> str:
        """As messages name it."""
        return f"node {self.name} ({self.host})"


class Cluster(SpecModel):
    """The first node is the head: it runs the serve that answers.

    ``remote`` holds ``{host}`` and ``{command}``. ``{command}`` as a word of its own is one word of shell text; inside a
    longer word it is quoted for the shell that reads that word (``ssh {host} "docker exec -i vllm sh -c {command}"``).

    Commands, flags and environment may hold ``{python}``, ``{model}``, ``{node}`` (this machine's address), ``{head}``,
    ``{cluster_port}``, ``{rank}`` and ``{nodes}`` (how many). ``serve_flags`` come on top of the profile's on the head.
    The other nodes run the same serve with ``follower_flags`` too (vLLM's own processes), or nothing but their service
    (Ray): ``head_service`` and ``follower_service`` start before the serve, which waits until ``joined`` succeeds on the
    head. ``modules`` must be there, and of one version, on every node.
    """

    remote: str
    nodes: Annotated[list[Node], Field(min_length=2)]
    cluster_port: Annotated[int, Field(ge=1, le=65535)]
    modules: Annotated[list[str], Field(default_factory=list)]
    serve_flags: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    follower_flags: dict[str, JsonValue] | None = None
    head_service: Words | None = None
    follower_service: Words | None = None
    joined: Words | None = None
    join_deadline_s: Annotated[float, Field(gt=0)] = 120.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            raise ValueError("two nodes have the same name")
        for template in [self.remote, *(node.remote for node in self.nodes if node.remote)]:
            if "{command}" not in template:
                raise ValueError(f"remote {template!r} has no {{command}}")
        if self.follower_flags is None and self.follower_service is None:
            raise ValueError("the other nodes have nothing to run: give follower_flags or follower_service")
        return self

    @property
    def head(self) -> Node:
        """The machine whose serve answers."""
        return self.nodes[0]

    def remote_of(self, node: Node) -> str:
        """How a command gets to a node."""
        return node.remote or self.remote

    def is_here(self, node: Node) -> bool:
        """Whether the node's commands run on this machine: its remote command names no host."""
        return "{host}" not in self.remote_of(node)


def remote_words(template: str, host: str, command: str) -> list[str]:
    """The words that bring ``command``, a piece of shell text, to ``host``."""
    words = []
    for word in shlex.split(template):
        text = command if word == "{command}" else shlex.quote(command)
        words.append(word.replace("{host}", host).replace("{command}", text))
    return words


def shell_text(command: list[str], environment: Mapping[str, str]) -> str:
    """A command with its environment, for the shell at the other end; the shell makes way for it."""
    assignments = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    start = ["exec", "env", *assignments] if assignments else ["exec"]
    return " ".join([*start, shlex.join(command)])


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with the placeholders that are known; other braces stay (JSON is full of them)."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text
