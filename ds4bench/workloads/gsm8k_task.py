"""GSM8K as lm-eval defines it: prompts, few-shot examples, filters and metrics come from its own task, never from here.

Needs the extra ``accuracy``; lm-eval is imported when a task is made, not before. The task gets its rows from
memory, so that nothing is downloaded or cached by lm-eval itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir

FILTERS = {"strict": "strict-match", "flexible": "flexible-extract"}
"""Our names of the scores: lm-eval's filters."""
_CHAT_TASK = "gsm8k-chat-last"

Rows = Sequence[Mapping[str, str]]
"""``question`` and ``answer`` each."""
Prompt = str | list[dict[str, str]]
"""Text for completions, messages for chat."""


@dataclass(frozen=True)
class Question:
    """One prompt as lm-eval builds it, with its stop sequences; ``number`` is the place in the test split."""

    number: int
    prompt: Prompt
    stop: list[str]


@dataclass(frozen=True)
class Reading:
    """What the task makes of one reply: by score name, 1.0 or 0.0 and the text that its filter took."""

    scores: dict[str, float]
    extracted: dict[str, str]


class Gsm8kTask:
    """lm-eval's task for an endpoint: the stock ``gsm8k`` for completions, the pinned ``gsm8k-chat-last`` for chat.

    ``train`` are the rows that examples are drawn from, ``test`` those that are asked. Raises WorkloadError without lm-eval.
    """

    def __init__(self, endpoint: Literal["chat", "completions"], train: Rows, test: Rows) -> None:
        self._chat = endpoint == "chat"
        with _quiet():
            config = _config(self._chat)
            self._task = _load(config, train, test)
        self._test = test
        self.name = str(config["task"])
        self.version = f"{float(config['metadata']['version']):g}"

    def questions(self, *, limit: int, shots: int, seed: int) -> list[Question]:
        """The first ``limit`` prompts, with ``shots`` examples drawn by ``seed`` (as lm-eval's fewshot_random_seed)."""
        self._task.set_config(key="num_fewshot", value=shots)
        self._task.set_fewshot_seed(seed=seed)
        with _quiet():
            self._task.build_all_requests(
                limit=limit,
                apply_chat_template=self._chat,
                fewshot_as_multiturn=self._chat,
                chat_template=_as_json if self._chat else None,
            )
        return [self._question(instance) for instance in self._task.instances]

    def read(self, number: int, reply: str) -> Reading:
        """Both metrics of one reply to question ``number``: the task's filters, then its ``process_results``."""
        from lm_eval.api.instance import Instance

        doc = self._test[number]
        instance = Instance(request_type="generate_until", doc=dict(doc), arguments=("", {}), idx=0)
        instance.resps = [reply]
        for ensemble in self._task._filters:  # its apply_filters() would do every instance of the task again
            ensemble.apply([instance])
        taken = {name: instance.filtered_resps[FILTERS[name]] for name in FILTERS}
        scores = {
            name: float(self._task.process_results(instance.doc, [text])["exact_match"]) for name, text in taken.items()
        }
        return Reading(scores, {name: str(text) for name, text in taken.items()})

    def _question(self, instance: Any) -> Question:
        context, generation = instance.args
        prompt: Prompt = json.loads(context) if self._chat else context
        return Question(int(instance.doc_id), prompt, list(generation["until"]))


def _config(chat: bool) -> dict[str, Any]:
    import yaml

    path = prompts_dir() / "gsm8k" / f"{_CHAT_TASK}.yaml" if chat else _stock_path()
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("tag", "dataset_path", "dataset_name"):  # the rows are in memory
        config.pop(key, None)
    return config


def _stock_path() -> Path:
    return Path(_tasks_module().__file__).parent / "gsm8k" / "gsm8k.yaml"


def _load(config: Mapping[str, Any], train: Rows, test: Rows) -> Any:
    tasks = _tasks_module()
    from datasets import Dataset

    def rows(**_: object) -> dict[str, Any]:
        return {"train": Dataset.from_list(list(train)), "test": Dataset.from_list(list(test))}

    loaded = tasks.TaskManager(include_defaults=False).load({**config, "custom_dataset": rows})
    return loaded["tasks"][config["task"]]


def _tasks_module() -> Any:
    try:
        import lm_eval.tasks
    except ModuleNotFoundError as error:
        raise WorkloadError(
            f"the gsm8k gate needs lm-eval ({error.name} is not installed): pip install 'ds4bench[accuracy]'"
        ) from None
    return lm_eval.tasks


def _as_json(messages: list[dict[str, str]], **_: object) -> str:
    """The "chat template" of a serve that applies its own: the messages themselves."""
    return json.dumps(messages)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's progress bars and its log lines below errors stay away from the gate's own report."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
