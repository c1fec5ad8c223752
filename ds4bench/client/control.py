"""Calls that are not timed: health, models, version, tokenizer, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import httpx
from aiohttp import ClientConnectorError, ClientOSError, ServerDisconnectedError
from httpx_aiohttp import AiohttpTransport

from ds4bench.client.transport import retry_after_s
from ds4bench.errors import TargetError

TIMEOUT_S = 60.0


class Posted(NamedTuple):
    """What a POST came back with: decoded JSON or None, and the pause in seconds that a refusal asks for."""

    status: int
    reply: Any
    retry_after_s: float | None = None


Pace = Callable[[Mapping[str, Any], Callable[[], Awaitable[Posted]]], Awaitable[Posted]]
"""Sends a body when it may be sent, and again after a refusal; may refuse it by an exception: a budget."""


class ControlClient:
    """Plain requests to one serve. Redirects are not followed, so a key never reaches another host.

    ``pace`` sends the bodies that are posted; None: at once, whatever comes back.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        health_path: str | None = "/health",
        pace: Pace | None = None,
    ) -> None:
        self._health_path = health_path
        self._pace = pace
        self.base_url = base_url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self.base_url, headers=dict(headers or {}), timeout=timeout_s, transport=AiohttpTransport()
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def health(self) -> bool:
        """Whether the page for it answers with success soon; a serve without one is healthy when it answers at all."""
        try:
            response = await self._client.get(self._health_path or "/", timeout=5.0)
            return self._health_path is None or response.is_success
        except httpx.HTTPError:
            return False

    async def status(self, path: str) -> int:
        """The HTTP status that a page is answered with. Raises TargetError if the serve cannot be reached."""
        return (await self._send("GET", path, None)).status_code

    async def get_json(self, path: str) -> Any | None:
        """Decoded JSON of a page; None if the serve does not have it. Raises TargetError if it cannot be reached."""
        response = await self._send("GET", path, None)
        try:
            return response.json() if response.is_success else None
        except ValueError:
            return None

    async def get_text(self, path: str) -> str | None:
        """Text of a page; None if the serve does not have it. Raises TargetError if it cannot be reached."""
        response = await self._send("GET", path, None)
        return response.text if response.is_success else None

    async def post_json(self, path: str, body: Any) -> tuple[int, Any]:
        """(status, decoded JSON or None). Raises TargetError if the serve cannot be reached."""
        if self._pace is not None and isinstance(body, Mapping):
            posted = await self._pace(body, lambda: self._post(path, body))
        else:
            posted = await self._post(path, body)
        return posted.status, posted.reply

    async def _post(self, path: str, body: Any) -> Posted:
        response = await self._send("POST", path, body)
        asked = retry_after_s(response.headers.get("retry-after"))
        try:
            return Posted(response.status_code, response.json(), asked)
        except ValueError:
            return Posted(response.status_code, None, asked)

    async def server_header(self, path: str) -> str | None:
        """The ``Server`` header that a page is answered with."""
        header = (await self._send("GET", path, None)).headers.get("server")
        return str(header) if header else None

    async def metrics_text(self) -> str | None:
        """Prometheus text of ``/metrics``; None if the serve has none, or is gone."""
        try:
            return await self.get_text("/metrics")
        except TargetError:
            return None

    async def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        for again in (True, False):
            try:
                return await self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                if again and _was_closed(error):
                    continue
                reason = str(error) or type(error).__name__
                raise TargetError(
                    f"{self.base_url}{path} cannot be reached: {reason}; is the serve running?"
                ) from error
        raise AssertionError("the second attempt returns or raises")


def _was_closed(error: httpx.HTTPError) -> bool:
    """Whether the serve closed an open connection: one that was idle, or one that it gives up after an error of its own."""
    cause = error.__cause__
    if isinstance(cause, ServerDisconnectedError):
        return True
    return isinstance(cause, ClientOSError) and not isinstance(cause, ClientConnectorError)
