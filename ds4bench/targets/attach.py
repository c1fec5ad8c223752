"""A serve that somebody else started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError
from ds4bench.targets.address import root_of
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.foreign import ForeignServe
from ds4bench.targets.identify import identify
from ds4bench.targets.ready import first_token

_READY_TIMEOUT_S = 120.0
"""A first token may wait behind a kernel compilation."""


class AttachTarget(ForeignServe):
    """Attach to ``url``, its root with or without ``/v1``. Never stops the serve.

    ``hardware`` is this machine's fingerprint, used when the URL is local. ``api_key`` is sent as a bearer
    token and kept out of every ``repr``.
    """

    name = "attach"

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        hardware: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = root_of(url)
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._hardware = hardware

    async def start(self, report: Report) -> Endpoint:
        """Identify the serve and get one token from it. Raises TargetError."""
        report(f"attaching to {self.url}")
        control = ControlClient(self.url, self._headers, timeout_s=_READY_TIMEOUT_S)
        try:
            found = await identify(control, model=self._model, hardware=self._hardware)
            engine, version = found.fingerprint.engine, found.fingerprint.engine_version or "of unknown version"
            report(f"found {engine} {version} ({found.because}), serving {found.model}; waiting for a token")
            await first_token(control, found.model)
        except TargetError as error:
            raise await self._about_the_key(control) or error from None
        finally:
            await control.close()
        return Endpoint(
            base_url=self.url,
            model=found.model,
            dialect=found.dialect,
            fingerprint=found.fingerprint,
            headers=self._headers,
            max_model_len=found.max_model_len,
        )

    async def _about_the_key(self, control: ControlClient) -> TargetError | None:
        """The clearer error when the serve answers nothing without (another) key; None when that is not the reason."""
        try:
            status, _ = await control.post_json("/v1/chat/completions", {})
        except TargetError:
            return None
        if status not in (401, 403):
            return None
        fix = (
            "the key in DS4BENCH_API_KEY is refused" if self._headers else "it wants a key: export DS4BENCH_API_KEY=..."
        )
        return TargetError(f"{self.url} answers HTTP {status}: {fix}")

    async def stop(self) -> None:
        """Nothing: who started the serve stops it."""
