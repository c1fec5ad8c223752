"""Patch a module when the engine imports it: no engine module is imported by us.

``after_import(name, action)`` runs ``action(module)`` at once where the module is there, else right after its import.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]
_waiting: dict[str, list[Action]] = {}
_lock = threading.RLock()


def after_import(name: str, action: Action) -> None:
    """Run ``action`` on module ``name`` now or when it is imported (before its importer sees it)."""
    with _lock:
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            action(module)
            return
        _waiting.setdefault(name, []).append(action)
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())


def waiting() -> frozenset[str]:
    """Modules that an action waits for."""
    return frozenset(_waiting)


def sweep(old: Any, new: Any, package: str) -> list[str]:
    """Put ``new`` for ``old`` wherever a module of ``package`` holds it by value. Returns ``module:name`` of each."""
    replaced = []
    for module_name, module in list(sys.modules.items()):
        if module_name != package and not module_name.startswith(package + "."):
            continue
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)
                replaced.append(f"{module_name}:{name}")
    return replaced


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a waited-for module through the other finders, and has its loader run the actions."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """The module's own loader, with the actions after it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader: resources and pickling look at it.
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        with _lock:
            actions = _waiting.pop(module.__name__, [])
        for action in actions:
            action(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
