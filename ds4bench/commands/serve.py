"""``ds4bench serve``."""

from __future__ import annotations

from ds4bench.errors import TargetError


def serve_embedded(arguments: list[str]) -> int:
    """Serve the embedded engine in this process until it is stopped; the arguments are the engine's own."""
    try:
        from ds4bench.embedded.__main__ import main
    except ModuleNotFoundError as error:
        raise TargetError(f"the embedded engine needs {error.name}: pip install 'ds4bench[embedded]'") from error
    return main(arguments)
