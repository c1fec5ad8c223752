"""The tags of DSML, DeepSeek-V4's tool-call markup, and finding markers in a text that arrives in pieces."""

from __future__ import annotations

import re

from ds4bench.embedded.chat.special_tokens import DSML

_BLOCK_NAMES = ("tool_calls", "toolcalls", "tool")  # the first is right; models also write the others
STARTS = tuple(f"<{DSML}{name}>" for name in _BLOCK_NAMES)
ENDS = tuple(f"</{DSML}{name}>" for name in _BLOCK_NAMES)
INVOKE = f'<{DSML}invoke name="'
INVOKE_END = f"</{DSML}invoke>"
PARAMETER = f'<{DSML}parameter name="'
PARAMETER_END = f"</{DSML}parameter>"
OPENERS = (*STARTS, INVOKE, PARAMETER)
CLOSERS = (*ENDS, INVOKE_END, PARAMETER_END)


class Markers:
    """A set of strings to look for in a stream. No marker may be the beginning of another one.

    A marker that contains another may do so only at its end; then the longer one, which begins earlier, wins.
    """

    def __init__(self, *markers: str) -> None:
        self._pattern = re.compile("|".join(re.escape(marker) for marker in markers))
        self._beginnings = frozenset(marker[:n] for marker in markers for n in range(1, len(marker)))
        self._longest = max(map(len, markers)) - 1

    def split(self, buffer: str) -> tuple[str, str | None, str]:
        """(text before the first marker, that marker, what follows it).

        Without a marker: (text that is certain, None, the longest end of the buffer that may be a marker's beginning).
        """
        found = self._pattern.search(buffer)
        if found is not None:
            return buffer[: found.start()], found.group(), buffer[found.end() :]
        for start in range(max(0, len(buffer) - self._longest), len(buffer)):
            if buffer[start:] in self._beginnings:
                return buffer[:start], None, buffer[start:]
        return buffer, None, ""


def after_newlines(*markers: str, most: int) -> tuple[str, ...]:
    """Each marker bare and with one up to ``most`` newlines before it, which then belong to the marker."""
    return tuple("\n" * count + marker for marker in markers for count in range(most + 1))
