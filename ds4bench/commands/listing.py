"""``ds4bench gates`` and ``ds4bench schema``."""

from __future__ import annotations

import json
import sys


def show_gates() -> None:
    """Print the gates, and the suites that are made of them."""
    from ds4bench.report.console import stdout
    from ds4bench.report.listings import render_gates, render_suites
    from ds4bench.spec.load import list_gates
    from ds4bench.spec.suite import list_suites

    render_gates(list_gates(), stdout())
    render_suites(list_suites(), stdout())


def show_schema() -> None:
    """Print the JSON Schema of gate files."""
    from ds4bench.spec.schema import gate_json_schema

    sys.stdout.write(json.dumps(gate_json_schema(), indent=2) + "\n")
