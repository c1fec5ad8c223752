"""What is known of the process of a serve that ds4bench did not start: nothing."""

from __future__ import annotations


class ForeignServe:
    """The part of a Target that asks about its process, for a serve that runs somewhere else or was started by others."""

    def alive(self) -> bool:
        """True: the process is not ours to watch; ``/health`` and the requests decide."""
        return True

    @property
    def pid(self) -> int | None:
        """Not ours."""
        return None

    def death_note(self) -> str | None:
        """None: nothing is known about the process."""
        return None
