"""Hooks: which engine function is replaced by what, verified against the installed engine, and installed.

A table maps an engine version to its hooks. An unknown version, a missing name or another signature never raises into
the engine: that hook (or the plugin) steps back with one line, unless DS4_KERNELS_STRICT=1.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ds4_kernels import env, ops
from ds4_kernels.engines import calls, importing, selection
from ds4_kernels.engines.hook import Function, Hook, Table
from ds4_kernels.engines.report import HookState, Report, say

Put = Callable[["Hook", Any, str, Function, Function, str], list[str]]
"""(hook, owner, name, original, replacement, engine) -> other places where the replacement now is."""


_installed: dict[str, Report] = {}


def put_in_place(
    hook: Hook, owner: Any, name: str, original: Function, replacement: Function, engine: str
) -> list[str]:
    """Bind the replacement to ``owner.name`` and, for ``hook.everywhere``, wherever the engine holds the original by value.

    Returns the other places as ``module:name``.
    """
    setattr(owner, name, replacement)
    return importing.sweep(original, replacement, engine) if hook.everywhere else []


def arm(engine: str, table: Callable[[], Table], put: Put = put_in_place) -> None:
    """What an entry point does: install the hooks of ``table()``, and never raise into the engine, but with
    DS4_KERNELS_STRICT=1."""
    try:
        install(engine, table(), put=put)
    except Exception as error:
        if os.environ.get(env.STRICT) == "1":
            raise
        say(engine, f"nothing is replaced: {type(error).__name__}: {error}")


def collect(package: str, modules: Sequence[str], versions: Sequence[str]) -> Table:
    """The hooks of the adapter modules of ``package``, by engine version."""
    found: dict[str, list[Hook]] = {version: [] for version in versions}
    for name in modules:
        hooks: Table = importlib.import_module(f"{package}.{name}").HOOKS
        for version, rows in hooks.items():
            found[version] += rows
    return found


def install(engine: str, table: Table, version: str | None = None, put: Put = put_in_place) -> Report:
    """Install the hooks of the engine's version. A second call changes nothing and returns the first one's report.

    ``put`` binds a replacement; an engine with a registry of its own has another one. ``engine`` is the distribution and the
    package name (``vllm``). Raises only with DS4_KERNELS_STRICT=1: ValueError for
    a bad setting, RuntimeError for an engine version without a table or a hook that does not fit.
    """
    if engine in _installed:
        return _installed[engine]
    try:
        settings = env.read()
        ops.names(settings.ops)
        _check_sabotage(settings)
    except ValueError as error:
        if os.environ.get(env.STRICT) == "1":
            raise
        report = _keep(Report(engine, None, env.Settings(mode="off", report=env.report_folder())))
        report.note = f"{error}; nothing is replaced"
        say(engine, report.note)
        report.write()
        return report
    found = version or engine_version(engine)
    report = _keep(Report(engine, found, settings))
    _choose_table(report, table)
    if report.table is not None:
        for hook in table[report.table]:
            _install_one(hook, report, put)
    _announce(report)
    report.write()
    return report


def engine_version(engine: str) -> str | None:
    """The installed distribution's version without its local part; None when it is not installed."""
    try:
        return importlib.metadata.version(engine).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def reports() -> Mapping[str, Report]:
    """Reports by engine of what ``install`` did in this process."""
    return _installed


def signature_mismatch(hook: Hook, original: Function) -> str | None:
    """Why ``original`` is not what the table says; None when it is."""
    try:
        names = tuple(inspect.signature(original).parameters)
    except (TypeError, ValueError) as error:
        return f"no signature: {error}"
    if names == hook.parameters:
        return None
    return f"signature ({', '.join(names)}), expected ({', '.join(hook.parameters)})"


def resolve(module: ModuleType, path: str) -> tuple[Any, str, Function]:
    """(owner, last name, function) of ``Class.method`` or ``function`` in a module. Raises AttributeError."""
    owner: Any = module
    *outer, last = path.split(".")
    for name in outer:
        owner = getattr(owner, name)
    return owner, last, getattr(owner, last)


def _keep(report: Report) -> Report:
    _installed[report.engine] = report
    return report


def _check_sabotage(settings: env.Settings) -> None:
    for name in settings.sabotage or {}:
        if name not in ops.TABLE:
            raise ValueError(f"{env.SABOTAGE} names {name!r}, which is no op")


def _choose_table(report: Report, table: Table) -> None:
    """Set ``report.table``; the nearest version is never guessed."""
    if report.settings.mode == "off":
        report.note = "DS4_KERNELS=off"
    elif report.version is None:
        report.note = f"{report.engine} is not installed as a distribution: no version, nothing is replaced"
    elif report.version not in table:
        report.note = f"no table for {report.engine} {report.version} (known: {', '.join(table)}); nothing is replaced"
    else:
        report.table = report.version
        return
    if report.settings.strict and report.settings.mode != "off":
        raise RuntimeError(f"ds4-kernels: {report.note}")


def _install_one(hook: Hook, report: Report, put: Put) -> None:
    state = report.add(HookState(hook.name, hook.op, ops.TABLE[hook.op].group, hook.target, computes=hook.shadow))
    chosen = selection.selected(hook.op, report.settings)
    if not chosen.active:
        state.state, state.reason = "skipped", chosen.reason
        return
    module, _, path = hook.target.partition(":")
    importing.after_import(module, lambda loaded: _patch(hook, loaded, path, state, report, put))


def _patch(hook: Hook, module: ModuleType, path: str, state: HookState, report: Report, put: Put) -> None:
    """Put the replacement in place. Called at import of the engine's module, so it raises with STRICT alone."""
    try:
        owner, name, original = resolve(module, path)
        mismatch = signature_mismatch(hook, original)
        if mismatch:
            raise TypeError(mismatch)
        if calls.is_wrapped(original, hook):
            return
        replacement = calls.wrap(hook, original, state, report)
        also = put(hook, owner, name, original, replacement, report.engine)
    except Exception as error:
        state.state, state.reason = "skipped", str(error)
        report.write()
        if report.settings.strict:
            raise RuntimeError(f"ds4-kernels: {hook.target}: {error}") from error
        say(report.engine, f"{hook.target} keeps the engine's own op: {error}")
        return
    state.state, state.reason = "installed", f"also in {', '.join(also)}" if also else ""
    report.write()


def _announce(report: Report) -> None:
    states = [state.state for state in report.hooks]
    settings = report.settings
    extras = [word for word, on in (("shadow", settings.shadow), ("SABOTAGE", bool(settings.sabotage))) if on]
    text = report.note or (
        f"{len(states) - states.count('skipped')} of {len(states)} hooks for {report.engine} {report.version} "
        f"({', '.join([f'DS4_KERNELS={settings.mode}', *extras])})"
    )
    say(report.engine, text)
