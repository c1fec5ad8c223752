"""The hosted DeepSeek API: a key, a budget, and no look behind the curtain."""

from __future__ import annotations

import contextlib
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets.address import root_of
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.dialect import dialect_of
from ds4bench.targets.foreign import ForeignServe
from ds4bench.targets.pacing import Pacing
from ds4bench.targets.profile import TargetProfile

_TIMEOUT_S = 120.0


class HostedTarget(ForeignServe):
    """``profile`` says where; ``api_key`` is sent as a bearer token and kept out of every ``repr``.

    ``pacing`` is the command's budget; its reports go where ``start``'s do. ``model`` None: the profile's.
    """

    def __init__(
        self,
        profile: TargetProfile,
        api_key: str | None,
        pacing: Pacing,
        *,
        model: str | None = None,
        url: str | None = None,
    ) -> None:
        if not api_key:
            raise TargetError(f"--target {profile.name} needs a key: export {profile.key_env}=...")
        if profile.base_url is None and url is None:
            raise TargetError(f"target profile {profile.name} has no base_url")
        self.name = profile.name
        self.profile = profile
        self.url = root_of(url or profile.base_url or "")
        self.model = model or profile.model or ""
        self.pacing = pacing
        self._headers = {"Authorization": f"Bearer {api_key}"}

    async def start(self, report: Report) -> Endpoint:
        """Check key, model and served model with one small request. Raises TargetError."""
        self.pacing.report = report
        report(f"asking {self.url} for {self.model}")
        control = ControlClient(self.url, self._headers, timeout_s=_TIMEOUT_S, pace=self.pacing.call)
        try:
            await self._check_listed(control)
            served, revision = await self._first_token(control)
        finally:
            await control.close()
        rerouted = next((r for r in self.profile.rerouted if r.id == self.model), None)
        if rerouted is not None:
            report(
                f"since {rerouted.since} the id {self.model} is served by {rerouted.to}, not by the model of that name"
            )
        return Endpoint(
            base_url=self.url,
            model=self.model,
            dialect=dialect_of(self.profile.engine),
            fingerprint=self._fingerprint(served, revision, rerouted.to if rerouted else None),
            headers=self._headers,
            pacing=self.pacing,
        )

    async def stop(self) -> None:
        """Say what was spent."""
        if self.pacing.account.requests:
            self.pacing.report(self.pacing.summary())

    async def _check_listed(self, control: ControlClient) -> None:
        listing = await control.get_json("/v1/models")
        data = listing.get("data") if isinstance(listing, dict) else None
        names = sorted(str(c["id"]) for c in data or [] if isinstance(c, dict) and "id" in c)
        if names and self.model not in names:
            raise TargetError(f"{self.url} does not serve the model {self.model!r}; it has: {', '.join(names)}")

    async def _first_token(self, control: ControlClient) -> tuple[str, str | None]:
        """(model that the reply names, its system fingerprint) of a one-token request without thinking."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Say yes."}],
            "max_tokens": 1,
            **dialect_of(self.profile.engine).thinking_body(False),
        }
        status, reply = await control.post_json("/v1/chat/completions", body)
        if status != 200 or not isinstance(reply, dict):
            raise TargetError(self._refusal(status, reply))
        served = str(reply.get("model") or "")
        if served != self.model:
            raise TargetError(
                f"asked {self.url} for {self.model}, but it says that {served or 'nobody'} answered; "
                f"name the model that you mean with --model"
            )
        fingerprint = reply.get("system_fingerprint")
        return served, fingerprint if isinstance(fingerprint, str) else None

    def _refusal(self, status: int, reply: Any) -> str:
        said = ""
        with contextlib.suppress(TypeError, KeyError, AttributeError):
            said = f": {reply['error']['message']}"[:200]
        key = self.profile.key_env
        meaning = {
            401: f"the key in {key} is refused",
            402: "the account has no balance; top it up",
            429: "the rate limit is reached before the run began; wait, or ask for a higher one",
        }
        return f"{self.url} gives no token for {self.model}: HTTP {status}: {meaning.get(status, 'no success')}{said}"

    def _fingerprint(self, served: str, revision: str | None, rerouted_to: str | None) -> Fingerprint:
        flags = {"served_model": served} | ({"rerouted_to": rerouted_to} if rerouted_to else {})
        return Fingerprint(
            engine=self.profile.engine, model=self.model, model_revision=revision, flags=flags, local=False
        )
