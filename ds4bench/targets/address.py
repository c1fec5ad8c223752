"""The address of a serve as a user gives it: checked before anything of it is shown or kept."""

from __future__ import annotations

from urllib.parse import urlsplit

from ds4bench.errors import TargetError

_HOW = "write it like http://127.0.0.1:8000"


def root_of(url: str) -> str:
    """Scheme, host, port and path of ``--url``, without a trailing ``/v1``. Raises TargetError for anything that is no
    address, and, without repeating it, for one that may hold a secret: a user, a password or a query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise TargetError(f"--url is not an address (its host is malformed); {_HOW}") from None
    if "@" in parts.netloc:
        raise TargetError("--url holds a user name or password; give the key through the environment instead")
    if parts.query or parts.fragment:
        raise TargetError(
            "--url holds a query or fragment, which is not sent; give the key through the environment instead"
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise TargetError(f"--url is not an address (its port is no number from 1 to 65535); {_HOW}")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise TargetError(f"--url {url!r} is not an address; {_HOW}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
