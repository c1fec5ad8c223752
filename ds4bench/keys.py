"""Keys of serves: told from other words of a command line, and hidden wherever one is shown or kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ds4bench import env

HIDDEN = "***"
_KEY_FLAG = "api-k"
_SECRET_FLAGS = (_KEY_FLAG, "admin-api-k", "hf-tok", "ssl-keyfile-p")
"""By their beginnings, because an engine's parser takes a flag that is cut short."""
_SERVE_ARG = "--serve-arg"
_VARIABLES = {"vllm": "VLLM_API_KEY"}
"""Where an engine looks for its key when no flag gives it. SGLang looks nowhere else."""


@dataclass(frozen=True)
class ServeKey:
    """The key that a launched serve will ask for, and where it was found."""

    value: str = field(repr=False)
    source: str


def serve_key(engine: str, command: Sequence[str], environment: Mapping[str, str]) -> ServeKey | None:
    """The key of a serve that is launched with this command, as the engine finds it; failing that, the one that this user
    has for serves. None when no place holds one. From then on it is a secret, and so are all others on the command line."""
    given = _secret_values(command)
    for _, value in given:
        env.keep_secret(value)
    for name, value in given:
        if name.startswith(_KEY_FLAG):
            return ServeKey(value, "--api-key")
    variable = _VARIABLES.get(engine)
    if variable is not None:
        value = environment.get(variable) or env.key(variable) or ""
        if value:
            env.keep_secret(value)
            return ServeKey(value, variable)
    own = env.api_key()
    return ServeKey(own, env.API_KEY) if own else None


def masked(words: Sequence[str]) -> list[str]:
    """The same command line without the values of keys: an engine's, or our own with ``--serve-arg`` before each word."""
    shown = []
    hiding = False
    for word in words:
        before, bare = _unwrapped(word)
        if word == _SERVE_ARG:
            shown.append(word)
        elif hiding and not bare.startswith("-"):
            shown.append(before + HIDDEN)
        else:
            name, equals, _ = bare.partition("=")
            secret = _is_secret(name)
            hiding = secret and not equals
            shown.append(f"{before}{name}={HIDDEN}" if secret and equals else word)
    return shown


def masked_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The same variables without the values of those that hold a key."""
    return {name: HIDDEN if env.is_secret(name) else value for name, value in environment.items()}


def _secret_values(command: Sequence[str]) -> list[tuple[str, str]]:
    """(flag without dashes, value) of every key on an engine's command line; a flag may be followed by several."""
    found = []
    flag = ""
    for word in command:
        if flag and not word.startswith("-"):
            found.append((flag, word))
            continue
        name, equals, value = word.partition("=")
        flag = _plain(name) if _is_secret(name) else ""
        if flag and equals:
            found.append((flag, value))
            flag = ""
    return found


def _unwrapped(word: str) -> tuple[str, str]:
    before = f"{_SERVE_ARG}="
    return (before, word.removeprefix(before)) if word.startswith(before) else ("", word)


def _is_secret(name: str) -> bool:
    return name.startswith("--") and _plain(name).startswith(_SECRET_FLAGS)


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("_", "-")
