"""The two consoles: results go to stdout, progress and remarks to stderr."""

from __future__ import annotations

from rich.console import Console


def stdout() -> Console:
    """Console for results. Not a terminal: plain text, 120 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def stderr() -> Console:
    """Console for progress."""
    return Console(stderr=True, highlight=False)
