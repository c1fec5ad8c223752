"""Target profiles: how a serve is launched or reached, as YAML files that a user can copy and change.

``profiles/NAME.yaml`` are targets, ``profiles/TARGET-NAME.yaml`` are ways to serve (``extends: TARGET``). A file of one's own
is given by its path wherever a name is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError
from yaml.nodes import Node

from ds4bench.errors import TargetError
from ds4bench.spec.base import SpecModel
from ds4bench.spec.document import child, merge, to_plain, where
from ds4bench.spec.files import read
from ds4bench.spec.mistakes import did_you_mean, first_mistake
from ds4bench.targets.dialect import DIALECTS
from ds4bench.targets.nodes import Cluster

_FOLDER = Path(__file__).with_name("profiles")
_DEEPEST = 4
_PLACES = ("python", "model", "host", "port")
Flags = dict[str, JsonValue]
"""Flag without dashes -> value. True: the flag alone; false: ``--no-FLAG``; null: not given; a mapping or list: as JSON."""


class Rerouted(SpecModel):
    """A hosted model id that its owner has pointed at another model."""

    id: str
    since: str
    to: str


class TargetProfile(SpecModel):
    """One profile. ``validity_flags`` are what the checks need to see: they are always given and cannot be switched off.

    ``command`` holds ``{python}``, ``{model}``, ``{host}`` and ``{port}``. ``module`` must be importable by that python.
    ``cluster``: the serve runs on several machines. ``choose``: when to take this one of several alike.
    """

    name: str
    title: str
    engine: str
    kind: Literal["embedded", "attach", "launch", "hosted"]
    extends: str | None = None
    source: str | None = None
    choose: str | None = None
    notes: Annotated[list[str], Field(default_factory=list)]
    module: str | None = None
    command: Annotated[list[str], Field(default_factory=list)]
    flags: Annotated[Flags, Field(default_factory=dict)]
    validity_flags: Annotated[Flags, Field(default_factory=dict)]
    environment: Annotated[dict[str, str], Field(default_factory=dict)]
    ready_deadline_s: Annotated[float, Field(gt=0)] = 1800.0
    grace_s: Annotated[float, Field(gt=0)] = 30.0
    base_url: str | None = None
    key_env: str | None = None
    model: str | None = None
    rerouted: Annotated[list[Rerouted], Field(default_factory=list)]
    cluster: Cluster | None = None

    def all_flags(self) -> Flags:
        """Flags with those that validity needs on top."""
        return {**self.flags, **self.validity_flags}


def profile_names() -> list[str]:
    """The profiles that come along."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def serve_profiles(target: str) -> list[str]:
    """The ways to serve that come along for a target, without the target's name before them."""
    return [name.removeprefix(f"{target}-") for name in profile_names() if name.startswith(f"{target}-")]


def load_profile(target: str, serve: str | None = None) -> TargetProfile:
    """The profile of a target, or of one of its ways to serve, by name or path of a file. Raises TargetError."""
    if serve is None:
        return _validated(_path(target, profile_names()))
    path = Path(serve) if _is_path(serve) else _FOLDER / f"{target}-{serve}.yaml"
    if not path.is_file():
        names = serve_profiles(target)
        if kinds := [name for name in names if name.startswith(f"{serve}-")]:
            raise TargetError(_which_of(target, serve, kinds))
        hint = did_you_mean(serve, names) if not _is_path(serve) else ""
        known = ", ".join(names) or "none"
        raise TargetError(
            f"no serve profile {serve!r} for {target}{hint}; there are: {known}, or the path of a YAML file"
        )
    profile = _validated(path)
    if profile.engine != load_profile(target).engine:
        raise TargetError(f"{path}: this profile is for {profile.engine}, not for --target {target}")
    return profile


def _which_of(target: str, serve: str, kinds: list[str]) -> str:
    choices = []
    for name in kinds:
        profile = load_profile(target, name)
        choices.append(f"{name} ({profile.choose or profile.title})")
    return f"there are {len(kinds)} serve profiles {serve}-*: {' or '.join(choices)}"


def command_line(flags: Mapping[str, Any]) -> list[str]:
    """Flags as an engine's parser takes them."""
    words: list[str] = []
    for name, value in flags.items():
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", _text(value)]
    return words


def with_extra(profile: TargetProfile, extra: Iterable[str]) -> tuple[Flags, list[str]]:
    """The profile's flags that a user did not give again, and the user's own words.

    Raises TargetError when one of those switches off what validity needs.
    """
    words = list(extra)
    names = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in words if word.startswith("--")}
    for name in profile.validity_flags:
        if f"no-{name}" in names or (name in names and profile.validity_flags[name] is not True):
            raise TargetError(f"--{name} belongs to every {profile.engine} serve that is measured; leave it as it is")
    kept = {
        name: value
        for name, value in profile.all_flags().items()
        if not {name, f"no-{name}", name.removeprefix("no-")} & names
    }
    return kept, words


def _path(name: str, known: list[str]) -> Path:
    path = Path(name) if _is_path(name) else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise TargetError(f"no target profile {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return path


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


def _validated(path: Path) -> TargetProfile:
    try:
        profile = TargetProfile.model_validate(to_plain(root := _node(path)))
    except ValidationError as error:
        raise TargetError(first_mistake(error, root, path, TargetProfile)) from None
    for word in profile.command:
        try:
            word.format(**dict.fromkeys(_PLACES, ""))
        except (KeyError, IndexError, ValueError):
            places = ", ".join(f"{{{name}}}" for name in _PLACES)
            raise TargetError(f"{path}: command: {word!r} has a place that is not known; known: {places}") from None
    if profile.engine not in DIALECTS:
        raise TargetError(f"{path}: engine: {profile.engine!r} has no dialect; known: {', '.join(DIALECTS)}")
    return profile


def _node(path: Path, depth: int = 0) -> Node:
    """The file on top of what it extends."""
    root = read(path, "target profile", "name, title, engine and kind")
    named = child(root, "extends")
    if named is None:
        return root
    if depth > _DEEPEST:
        raise TargetError(f"{where(named)}: extends: leads round in a circle")
    return merge(_node(_path(str(named.value), profile_names()), depth + 1), root)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict | list) else str(value)
