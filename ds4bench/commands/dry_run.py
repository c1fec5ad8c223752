"""``ds4bench gate --dry-run``: what would be launched, or what would be sent and what it could cost.

Starts and sends nothing; a data set that the gate reads by name is downloaded, since the requests are made of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ds4bench.client.control import ControlClient
from ds4bench.core import Fingerprint, PlannedRequest
from ds4bench.gate_runner import plan
from ds4bench.run_session import check_endpoint
from ds4bench.targets.base import Endpoint
from ds4bench.targets.choice import LAUNCHED, launch_of, priced
from ds4bench.targets.dialect import dialect_of
from ds4bench.targets.profile import load_profile
from ds4bench.workloads.registry import make_workload

if TYPE_CHECKING:
    from ds4bench.run_session import Prepared, TargetOptions
    from ds4bench.targets.pricing import Priced

_BYTES_PER_TOKEN = 4.0
"""Of plain English; the real count comes from the serve."""
_SHOWN_TEXT = 160
_RUN_ID = "dry-run"


def show_dry_run(prepared: Prepared, target: TargetOptions) -> int:
    """Print the plan; returns 0. Raises SpecError for a gate that the target cannot run."""
    if target.name in LAUNCHED:
        from ds4bench.commands.serve import show_launch

        show_launch(launch_of(target.name, target.model or "", target.serve_args, target.serving))
    engine = load_profile(target.name).engine
    check_endpoint(prepared, dialect_of(engine))
    profile = load_profile(target.name)
    model = target.model or profile.model or "MODEL"
    url = target.url or profile.base_url or "http://SERVE"
    endpoint = Endpoint(url, model, dialect_of(engine), Fingerprint(engine=engine, model=model))
    sent = asyncio.run(_requests(prepared, endpoint))
    _show(prepared, endpoint, sent, priced(model, target.serving) if profile.kind == "hosted" else None)
    return 0


@dataclass
class _Sent:
    """What one cell would send: scripts (at least one request each), and the first request of those that tell it."""

    scripts: int = 0
    warmup: int = 0
    requests: list[PlannedRequest] | None = None


class _Offline(ControlClient):
    """Answers the questions of a workload by estimates, so that it builds its real requests without a serve."""

    def __init__(self) -> None:
        self.base_url = "offline"

    async def get_json(self, path: str) -> Any | None:
        """Nothing is known."""
        return None

    async def get_text(self, path: str) -> str | None:
        """Nothing is known."""
        return None

    async def metrics_text(self) -> str | None:
        """Nothing is known."""
        return None

    async def post_json(self, path: str, body: Any) -> tuple[int, Any]:
        """A token count estimated from the text."""
        tokens = _tokens(body)
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        return 200, {"count": tokens, "usage": usage, "choices": [{}]}


async def _requests(prepared: Prepared, endpoint: Endpoint) -> dict[str, _Sent]:
    workload = make_workload(prepared.gate.spec, _RUN_ID, prepared.data)
    control = _Offline()
    await workload.prepare(endpoint, control)
    cells = {cell.id: _Sent(requests=[]) for cell in prepared.gate.spec.matrix.cells()}
    for key in plan(prepared.gate.spec.matrix.cells(), prepared.gate.spec.repeats.count, None):
        batch = await workload.batch(key.cell, key.repeat, key.attempt, key.phase, control)
        sent = cells[key.cell.id]
        sent.scripts += len(batch.scripts)
        sent.warmup += len(batch.scripts) if key.phase == "warmup" else 0
        cast(list[PlannedRequest], sent.requests).extend(s.first for s in batch.scripts if s.first is not None)
    return cells


def _show(prepared: Prepared, endpoint: Endpoint, cells: Mapping[str, _Sent], prices: Priced | None) -> None:
    spec = prepared.gate.spec
    lines = [f"# gate {spec.name}, profile {prepared.gate.profile}, to {endpoint.base_url} for model {endpoint.model}"]
    scripts = sum(sent.scripts for sent in cells.values())
    known = [planned for sent in cells.values() for planned in sent.requests or []]
    for cell, sent in cells.items():
        tokens = [_tokens(planned.body) for planned in sent.requests or []]
        prompts = f", about {sum(tokens) // len(tokens)} prompt tokens each" if tokens else ""
        lines.append(f"{cell}: {sent.scripts} scripts ({sent.warmup} of them warm-up){prompts}")
    unknown = "" if len(known) == scripts else "; a script may send more than one request"
    lines.append(f"total: at least {scripts} requests{unknown}")
    if prices is not None and known:
        cost = sum(prices.price.cost(_tokens(p.body), int(p.body.get("max_tokens", 0))) for p in known)
        lines.append(
            f"cost: at most about {cost:.4f} {prices.currency} by the prices of {prices.checked}, for the {len(known)} "
            "requests that are known (estimated prompt tokens, every reply at max_tokens, nothing cached)"
        )
    if known:
        lines.append(f"first request: POST {endpoint.base_url}{known[0].path}")
        lines.append(json.dumps(_shortened(known[0].body), ensure_ascii=False, indent=2))
    sys.stdout.write("\n".join(lines) + "\n")


def _tokens(body: Any) -> int:
    said = [body.get("messages", body.get("prompt", "")), body.get("tools") or ""] if isinstance(body, dict) else ""
    text = json.dumps(said, ensure_ascii=False)
    return max(1, round(len(text.encode()) / _BYTES_PER_TOKEN))


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _SHOWN_TEXT:
        return f"{value[:_SHOWN_TEXT]}... ({len(value)} characters)"
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return {k: _shortened(v) for k, v in value.items()} if isinstance(value, dict) else value
