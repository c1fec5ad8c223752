"""Calls that are not timed: health, models, version, tokenizer, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
from aiohttp import ClientConnectorError, ClientOSError, ServerDisconnectedError
from httpx_aiohttp import AiohttpTransport

from ds4bench.errors import TargetError

TIMEOUT_S = 60.0


class ControlClient:
    """Plain requests to one serve. Redirects are not followed, so a key never reaches another host.

    ``on_post`` is told of every body before it is posted, and may refuse it by an exception: a budget.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        health_path: str | None = "/health",
        on_post: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._health_path = health_path
        self._on_post = on_post
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
        if self._on_post is not None and isinstance(body, Mapping):
            self._on_post(body)
        response = await self._send("POST", path, body)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, None

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
