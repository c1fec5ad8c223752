"""The exception tree. Every message says what is wrong, where, and what to do about it.

The CLI turns a ``Ds4BenchError`` into one line and exit code 2; ``--debug`` shows the trace.
"""

from __future__ import annotations


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without its name, which the message around it has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class Ds4BenchError(Exception):
    """Base of everything that ds4bench raises on purpose."""


class SpecError(Ds4BenchError):
    """A gate file, profile or ``--set`` override is wrong."""


class TargetError(Ds4BenchError):
    """A serve cannot be reached, launched or identified."""


class TargetDiedError(TargetError):
    """A serve that answered before has stopped answering in the middle of a run, or has restarted."""


class StoreError(Ds4BenchError):
    """A run folder or baseline is missing, damaged or of another schema."""


class WorkloadError(Ds4BenchError):
    """A workload cannot be built as the gate asks, for example no tokenizer to count prompt tokens with."""
