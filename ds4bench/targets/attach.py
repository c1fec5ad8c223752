"""A serve that somebody else started."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.identify import identify, token_comes_back

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class AttachTarget:
    """Talks to the serve at ``url`` and never starts or stops anything.

    ``api_key`` goes into the Authorization header and nowhere else. ``hardware`` is this machine's.
    """

    name = "attach"

    def __init__(self, url: str, model: str | None, *, hardware: dict[str, Any], api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TargetError(f"--url {url!r} is not a URL like http://127.0.0.1:8000")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._local = parts.hostname in _LOCAL_HOSTS
        self._hardware = hardware
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def start(self, report: Report) -> Endpoint:
        """See ``Target``."""
        control = ControlClient(self._url, self._headers)
        try:
            report(f"asking {self._url} who it is")
            endpoint = await identify(
                control, self._model, local=self._local, hardware=self._hardware, headers=self._headers
            )
            await token_comes_back(control, endpoint)
        finally:
            await control.close()
        fingerprint = endpoint.fingerprint
        report(
            f"found {fingerprint.engine} {fingerprint.engine_version or ''} serving {endpoint.model}".replace("  ", " ")
        )
        return endpoint

    def alive(self) -> bool:
        """Unknown from here: only requests can tell."""
        return True

    def death_note(self) -> str | None:
        """Unknown from here."""
        return None

    async def stop(self) -> None:
        """It is not ours to stop."""
