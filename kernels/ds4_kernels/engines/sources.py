"""Signatures of an engine's functions from its source files alone: no import, no CUDA, no dependency of the engine.

For ``ds4-kernels doctor`` (what would be replaced in another interpreter's engine) and for tests against unpacked wheels.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MAX_HOPS = 8
"""Re-exports followed from a name to its definition."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class SourceError(LookupError):
    """The source has no such name, or one whose signature cannot be read off it."""


def parameters(root: Path, target: str) -> tuple[str, ...]:
    """Parameter names of ``module:function`` or ``module:Class.method`` under ``root`` (the folder that holds the package).

    Follows ``from x import name`` and a name that a wrapper factory assigns (its inner function counts). Raises SourceError.
    """
    module, _, path = target.partition(":")
    *outer, last = path.split(".")
    function = _in_class(root, module, outer, last) if outer else _find(root, module, last, MAX_HOPS)
    found = function.args
    names = [argument.arg for argument in (*found.posonlyargs, *found.args)]
    names += [found.vararg.arg] if found.vararg else []
    names += [argument.arg for argument in found.kwonlyargs]
    return tuple(names + ([found.kwarg.arg] if found.kwarg else []))


def _in_class(root: Path, module: str, outer: list[str], last: str) -> _Function:
    scope: ast.AST = _tree(root, module)
    for name in outer:
        classes = [node for node in _statements(scope) if isinstance(node, ast.ClassDef) and node.name == name]
        if not classes:
            raise SourceError(f"{module} has no class {name}")
        scope = classes[0]
    return _definition(scope, last) or _missing(module, ".".join([*outer, last]))


def _find(root: Path, module: str, name: str, hops: int) -> _Function:
    tree = _tree(root, module)
    found = _definition(tree, name)
    if found is not None:
        return found
    if not hops:
        raise SourceError(f"{name} is re-exported more than {MAX_HOPS} times")
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(root, _absolute(root, module, node), alias.name, hops - 1)
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return _assigned(tree, node.value) or _missing(module, name)
    return _missing(module, name)


def _assigned(tree: ast.AST, value: ast.expr) -> _Function | None:
    """The inner function that a factory of the same module returns."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
        return None
    factory = _definition(tree, value.func.id)
    returned = [node.value for node in factory.body if isinstance(node, ast.Return)] if factory else []
    names = [node.id for node in returned if isinstance(node, ast.Name)]
    return _definition(factory, names[0]) if factory and names else None


def _definition(scope: ast.AST, name: str) -> _Function | None:
    for node in _statements(scope):
        if isinstance(node, _Function) and node.name == name:
            return node
    return None


def _statements(scope: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a scope, also those inside of if and try (but not of ``if TYPE_CHECKING``)."""
    for node in getattr(scope, "body", []):
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements(node)
            for branch in (getattr(node, "orelse", []), getattr(node, "finalbody", []), *_handlers(node)):
                yield from _statements(ast.Module(list(branch), []))


def _handlers(node: ast.stmt) -> list[list[ast.stmt]]:
    return [handler.body for handler in node.handlers] if isinstance(node, ast.Try) else []


def _absolute(root: Path, module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if _path(root, module).name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _path(root: Path, module: str) -> Path:
    file = root.joinpath(*module.split("."))
    for candidate in (file.with_suffix(".py"), file / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise SourceError(f"no source of {module} under {root}")


@cache
def _tree(root: Path, module: str) -> ast.Module:
    return ast.parse(_path(root, module).read_text(encoding="utf-8"))


def _missing(module: str, name: str) -> _Function:
    raise SourceError(f"{module} defines no function {name}")
