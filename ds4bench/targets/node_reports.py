"""The kernel reports that a serve's processes keep on the machines of a cluster, brought here by the nodes' connections."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ds4bench.targets.node_run import Done, run_to_end
from ds4bench.targets.nodes import Cluster, Node, remote_words, shell_text

_TIMEOUT_S = 60.0
_DISCARD_S = 15.0
_FETCH = """
import json, pathlib, sys
print(json.dumps({p.name: p.read_text() for p in pathlib.Path(sys.argv[1]).glob("*.json")}))
"""


@dataclass(frozen=True)
class NodeReports:
    """One launch's report folders, one on each node: a path of this machine need not be there, or be the node's alone."""

    cluster: Cluster
    python: str
    parent: str = field(default_factory=lambda: f"/tmp/ds4bench-kernels-{secrets.token_hex(8)}")  # noqa: S108 - random

    @property
    def folder(self) -> str:
        """The folder on a node, for the environment of a profile: the node's rank is filled in with the rest."""
        return f"{self.parent}/{{rank}}"

    async def fetch(self, into: Path) -> list[str]:
        """Put what the nodes' processes have told up to now into ``into``, in place of what was fetched before. Returns a
        line for each node of which nothing could be read: of that one nothing is left here, so that it proves nothing."""
        said = await asyncio.gather(*(self._fetch_one(node, into) for node in self.cluster.nodes))
        return [line for line in said if line is not None]

    async def discard(self) -> None:
        """Remove the folders. A node that does not answer keeps a few kilobytes."""
        await asyncio.gather(*(self._run(node, ["rm", "-rf", self.parent], _DISCARD_S) for node in self.cluster.nodes))

    async def _fetch_one(self, node: Node, into: Path) -> str | None:
        rank = self.cluster.nodes.index(node)
        for old in into.glob(f"node{rank}-*.json"):
            old.unlink()
        done = await self._run(node, [node.python or self.python, "-c", _FETCH, f"{self.parent}/{rank}"], _TIMEOUT_S)
        try:
            told: Mapping[str, str] = json.loads(done.out.strip().splitlines()[-1])
            for name, text in told.items():
                (into / f"node{rank}-{Path(name).name}").write_text(text)
        except (ValueError, IndexError, AttributeError, TypeError):
            return f"{node}: the kernel reports there cannot be read: {done.last_line()}"
        return None

    async def _run(self, node: Node, command: list[str], timeout_s: float) -> Done:
        return await run_to_end(
            remote_words(self.cluster.remote_of(node), node.host, shell_text(command, {})), timeout_s
        )
