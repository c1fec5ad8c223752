"""ToolCall-15: fifteen short conversations that test how a model calls tools, and what their traces are worth.

The scenarios are files under ``prompts/toolcall15``. The way of a number: ``scenario`` (data) -> ``conversation``
(``converse``) -> ``trace`` -> ``rules`` (``score``) -> ``summary`` (``summarise``, ``rescore``). ``gate`` makes a gate's
workload of them; everything else is data and pure functions.
"""

from __future__ import annotations

from ds4bench.workloads.toolcall15.gate import ToolCall15, read_data

__all__ = ["ToolCall15", "read_data"]
