"""What can be said before an engine is launched, so that a mistake costs a second and not a quarter of an hour."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from ds4bench.errors import TargetError

_PROBE = """
import importlib.metadata as m, importlib.util as u, json, sys
name = sys.argv[1]
try:
    version = m.version(name)
except m.PackageNotFoundError:
    version = None
print(json.dumps({"found": u.find_spec(name) is not None, "version": version}))
"""
_PROBE_TIMEOUT_S = 60.0


def interpreter(given: str | None) -> str:
    """The python of an interpreter path or an environment's folder; this one when nothing is given. Raises TargetError."""
    if given is None:
        return sys.executable
    path = Path(given).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    if not path.is_file() or not os.access(path, os.X_OK):
        raise TargetError(
            f"--engine-python {given}: no python there; give the interpreter or the folder of its environment"
        )
    return str(path.absolute())


def engine_version(python: str, module: str) -> str | None:
    """The engine's version in that environment; None if it does not tell. Raises TargetError when it is not installed."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE, module], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"--engine-python {python}: this python does not work: {error}") from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or f"exit code {done.returncode}, no word").splitlines()[-1]
        raise TargetError(f"--engine-python {python}: this python does not work: {said}") from None
    if not found["found"]:
        raise TargetError(f"{module} is not installed for {python}; give the engine's own with --engine-python PATH")
    version = found["version"]
    return version if isinstance(version, str) else None


def check_model(model: str) -> None:
    """Raises TargetError for a local folder that is none. An id of a hub cannot be checked without asking it."""
    path = Path(model).expanduser()
    if not (path.is_absolute() or model.startswith((".", "~"))):
        return
    if not path.exists():
        raise TargetError(f"no model at {model}; give a folder with config.json or a model id")
    if path.is_dir() and not (path / "config.json").is_file():
        raise TargetError(f"{model} has no config.json: is it a model's folder?")


def free_port() -> int:
    """A port of the loopback address that nobody uses right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raises TargetError when nobody can listen there, or somebody does: its answers must not be taken for the new
    serve's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            return
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise TargetError(f"port {port} is in use on {host}; give another one with --port") from None
        if error.errno == errno.EACCES:
            raise TargetError(f"port {port} is not for this user; give one above 1023 with --port") from None
        why = f"--host {host} is no address of this machine to listen on ({error.strerror})"
        raise TargetError(f"{why}; give one that `ip addr` lists") from None
