"""Options that several commands of the command line share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class TargetName(StrEnum):
    """Who answers."""

    EMBEDDED = "embedded"
    ATTACH = "attach"
    VLLM = "vllm"
    SGLANG = "sglang"
    HOSTED_DEEPSEEK = "hosted-deepseek"


JunitFile = Annotated[str | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")]
SummaryFile = Annotated[
    str | None, typer.Option("--summary", metavar="FILE", help='Append Markdown, e.g. to "$GITHUB_STEP_SUMMARY".')
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="The verdict line only.")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the launched engine (default: a free one).")]
ServeArgs = Annotated[list[str] | None, typer.Option(metavar="FLAG", help="Flag for the launched serve; repeat it.")]
ServeProfile = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="How vllm or sglang serves: rtx-pro-6000-tp2, h200, cpu, ... or a YAML file."),
]
MaxRequests = Annotated[
    int | None,
    typer.Option(
        min=1, help="Hosted: end before more requests than this are sent in all, over every run of the command."
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, help="Hosted: end before all of it can cost more than this (currency of --prices)."),
]
Prices = Annotated[str | None, typer.Option(metavar="FILE", help="Hosted: price table of your own, YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a value of the gate, e.g. --set request.max_tokens=64; repeat it."
    ),
]
GateData = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Local copy of the data that the gate reads, e.g. MT-bench's question.jsonl."),
]
SuiteData = Annotated[
    list[str] | None, typer.Option(metavar="GATE=PATH", help="Local copy of the data that a gate reads; repeat it.")
]
