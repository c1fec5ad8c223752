"""How to go on with a run: the command that began it, without what ``--resume`` takes from the run itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ds4bench import keys

_OF_THE_RUN = ("--profile", "--set", "--repeats", "--resume")
_KEPT_ELSEWHERE = "begun with a key that is not stored: give it again"


def resume_command(words: Sequence[str], run_id: str) -> str:
    """One line for a shell. ``words`` is a command line, program first; the values of keys in it are hidden."""
    kept = [Path(words[0]).name if words else "ds4bench"]
    if kept[0] in ("__main__.py", "cli.py"):
        kept = ["ds4bench"]
    drop_value = False
    for word in keys.masked(list(words[1:])):
        name, equals, _ = word.partition("=")
        if drop_value:
            drop_value = False
        elif name in _OF_THE_RUN:
            drop_value = not equals
        else:
            kept.append(word)
    line = shlex.join([*kept, "--resume", run_id])
    return f"{line} ({_KEPT_ELSEWHERE})" if any(keys.HIDDEN in word for word in kept) else line
