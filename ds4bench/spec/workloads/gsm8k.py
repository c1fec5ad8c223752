"""``workload: gsm8k``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ds4bench.spec.base import ItemBatches, OptionsSpec
from ds4bench.spec.workloads.base import WorkloadSpec


class Gsm8kMatrix(ItemBatches):
    """The first ``limit`` questions in their order, in batches of ``batch``, ``concurrency`` of them in flight."""


class Gsm8kOptions(OptionsSpec):
    """Which questions without ``--data``, and how many solved examples stand before each.

    ``request.endpoint`` decides the lm-eval task: ``completions`` is the stock gsm8k, ``chat`` the project's own
    gsm8k-chat-last (prompts/gsm8k). The gate's ``seed`` draws the examples; 1234 is lm-eval's own.
    """

    data: Literal["gsm8k", "gsm8k-nano"] = "gsm8k"
    shots: Annotated[int, Field(ge=0, le=64)] = 5


SPEC = WorkloadSpec(
    name="gsm8k",
    implementation="Gsm8k",
    version=1,
    matrix=Gsm8kMatrix,
    options=Gsm8kOptions,
    checks=(
        *("server_alive", "all_items_answered", "model_identity", "mode_effective"),
        *("completions_whole", "comparable"),
    ),
    columns=("n", "scores", "tokens", "failed"),
    reads_data=True,
    independent=True,
    machine_matters=False,  # right is right on any GPU, with any speculation: differences are what is looked for
)
