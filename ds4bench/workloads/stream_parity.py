"""The same prompts streamed and not streamed: what a client reads must be the same, and free of markup."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError, reason_of
from ds4bench.paths import prompts_dir
from ds4bench.spec.base import SpecModel
from ds4bench.spec.document import child, compose, to_plain, where
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.stream_parity import StreamParityOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.dataset import DataSet, make_dataset
from ds4bench.workloads.request_body import PATHS, salt_of, sampling_fields

_TAGS = r"</?think>"
MARKUP = re.compile(
    r"[｜|]\s*DSML|DSML\s*[｜|]"  # the special token of a tool call's tags, whole or cut
    r"|</?｜|｜>"  # the beginning or end of any special token
    rf"|{_TAGS}"
    r"|</?(?:tool_calls?|toolcalls?|function_calls?)\b|<(?:invoke|parameter)\s+name=|</(?:invoke|parameter)>"
)
"""What only a parser may see: DeepSeek-V4's special tokens, thinking tags and tool-call tags, and pieces of them. None of the
prompts asks for a reply that has any."""
THINKING_TAGS = re.compile(_TAGS)
"""The same for a prompt that offers no tools: serves then parse no calls, and what a model writes is content."""

_SHOWN = 80
Said = tuple[str, str, str]
"""Reasoning, content and tool calls of a reply; the calls as canonical JSON, without their ids, which are made up anew."""


class Prompt(SpecModel):
    """One prompt: messages in OpenAI's form, names of the tools offered, whether a good answer calls one."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[str] = Field(default_factory=list)
    calls: bool = False


class PromptFile(SpecModel):
    """``prompts.yaml``: tools (OpenAI function definitions by name) and prompts."""

    tools: dict[str, dict[str, Any]]
    prompts: Annotated[list[Prompt], Field(min_length=1)]


def read_data(spec: GateSpec, source: str | None) -> DataSet:
    """The prompts of the file ``source``, default the project's own, each with the definitions of its tools.

    Raises WorkloadError that names file and line, and for a request that contradicts the workload.
    """
    if spec.request.thinking is not None:
        raise WorkloadError("request.thinking: the axis matrix.mode says who thinks; leave it out")
    if spec.request.endpoint != "chat" or spec.request.temperature != 0:
        raise WorkloadError("request: two replies are alike only over endpoint: chat with temperature: 0")
    path = Path(source) if source is not None else prompts_dir() / "stream-parity" / "prompts.yaml"
    return make_dataset("stream-parity", _chosen(_read(path), spec, path), source)


def _chosen(items: list[dict[str, Any]], spec: GateSpec, path: Path) -> list[dict[str, Any]]:
    assert isinstance(spec.options, StreamParityOptions)
    wanted = spec.options.prompts
    known = [item["id"] for item in items]
    if unknown := sorted(set(wanted or ()) - set(known)):
        raise WorkloadError(f"options.prompts: {path} has no prompt {unknown[0]!r}; known: {', '.join(known)}")
    return [item for item in items if wanted is None or item["id"] in wanted]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        root = compose(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(
            f"{path}: cannot be read: {reason_of(error)}; give a YAML file of tools and prompts"
        ) from None
    try:
        file = PromptFile.model_validate(to_plain(root))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        node = root
        for step in first["loc"]:
            node = child(node, step) or node
        place = ".".join(map(str, first["loc"]))
        raise WorkloadError(f"{where(node)}: {place}: {first['msg']}") from None
    unknown = sorted({name for prompt in file.prompts for name in prompt.tools} - file.tools.keys())
    ids = [prompt.id for prompt in file.prompts]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if unknown or twice:
        what = f"no tool is called {unknown[0]!r}; tools has {', '.join(file.tools)}" if unknown else ""
        raise WorkloadError(f"{path}: {what or f'two prompts are called {twice[0]}; every prompt needs its own id'}")
    return [
        {**prompt.model_dump(mode="json"), "tools": [_function(name, file.tools[name]) for name in prompt.tools]}
        for prompt in file.prompts
    ]


def _function(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **definition}}


class StreamParity:
    """The workload of the stream-parity gate. One prompt after the other: a full batch would change the arithmetic."""

    def __init__(self, spec: GateSpec, run_id: str, data: DataSet | None) -> None:
        assert isinstance(spec.options, StreamParityOptions)
        if data is None:
            raise WorkloadError("stream_parity needs its prompts: read_data() comes first")
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._prompts: list[dict[str, Any]] = data.items
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``."""
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``. No warm-up: no time is judged."""
        if phase == "warmup":
            return Batch([])
        name = f"{cell.id} {repeat} {attempt}"
        scripts = [self._script(cell, number, prompt, name) for number, prompt in enumerate(self._prompts)]
        return Batch(scripts, slots=1)

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: only both replies together say something."""
        return None

    def _script(self, cell: Cell, number: int, prompt: dict[str, Any], name: str) -> Script:
        async def run(send: Send) -> Answer | None:
            streamed: list[RequestResult] = []
            whole: list[RequestResult] = []
            for place in range(self._options.tries):
                for stream, kept in ((True, streamed), (False, whole)):
                    index = 2 * (number * self._options.tries + place) + (not stream)
                    result = await send(self._request(cell, index, prompt, f"{name} {index}", stream=stream))
                    if not result.ok:
                        return None
                    kept.append(result)
                if agree(streamed, whole):
                    break
            return compare(streamed, whole, MARKUP if prompt["tools"] else THINKING_TAGS)

        return Script(key=str(prompt["id"]), run=run)

    def _request(self, cell: Cell, index: int, prompt: dict[str, Any], name: str, *, stream: bool) -> PlannedRequest:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        spec, endpoint = self._spec.request, self._endpoint
        thinking = cell.params["mode"] == "thinking"
        body: dict[str, Any] = {
            "model": endpoint.model,
            **endpoint.dialect.thinking_body(thinking),
            "messages": prompt["messages"],
            **sampling_fields(spec, endpoint),
            "seed": self._spec.seed,
        }
        if prompt["tools"]:
            body |= {"tools": prompt["tools"], "tool_choice": "auto"}
        if not stream:
            body["stream"] = False
            del body["stream_options"]
        if spec.salt and endpoint.dialect.cache_salt:
            body["cache_salt"] = salt_of(self._run_id, name)
        expect = {"prompt": prompt["id"], "stream": stream, "thinking": thinking, "tools": prompt["calls"]}
        return PlannedRequest(cell.id, index, PATHS["chat"], {**body, **spec.extra_body}, expect)


def said(result: RequestResult) -> Said:
    """What a client reads in a reply."""
    calls = [[call.get("name"), _arguments(call.get("arguments"))] for call in result.tool_calls]
    return result.reasoning, result.content, json.dumps(calls, ensure_ascii=False, sort_keys=True)


def _arguments(text: Any) -> Any:
    """Arguments as JSON values, so that spaces between them do not count; else the text itself."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def agree(streamed: Sequence[RequestResult], whole: Sequence[RequestResult]) -> bool:
    """Whether every streamed reply came whole too."""
    return {said(result) for result in streamed} <= {said(result) for result in whole}


def compare(streamed: Sequence[RequestResult], whole: Sequence[RequestResult], markup: re.Pattern[str]) -> Answer:
    """Scores of a prompt's replies: ``clean`` is 1 without ``markup`` in any of them, ``parity`` 1 if they agree.

    They differ (0) only where all streamed replies are the same and all whole ones are, so that parsing is what is left to
    explain it. Else ``parity`` is missing: the serve writes another text each time, and nothing was shown.
    """
    leaks = [leak for result in (*streamed, *whole) if (leak := _leak(result, markup)) is not None]
    scores = {"clean": float(not leaks)}
    detail: dict[str, Any] = {"leaks": leaks} if leaks else {}
    if agree(streamed, whole):
        return Answer(scores={"parity": 1.0, **scores}, detail=detail)
    detail["differences"] = _differences(said(streamed[0]), said(whole[0]))
    if len({said(result) for result in streamed}) == len({said(result) for result in whole}) == 1:
        scores["parity"] = 0.0
    else:
        detail["unsteady"] = "the serve does not repeat its own replies at temperature 0"
    return Answer(scores=scores, detail=detail)


def _leak(result: RequestResult, markup: re.Pattern[str]) -> str | None:
    for name, text in (("content", result.content), ("reasoning", result.reasoning)):
        if (found := markup.search(text)) is not None:
            return f"{name}: ...{text[max(0, found.start() - 20) : found.end() + 20]}"
    return None


def _differences(streamed: Said, whole: Said) -> list[str]:
    """Where two replies differ, from the first character that does."""
    found = []
    for name, one, other in zip(("reasoning", "content", "tool_calls"), streamed, whole, strict=True):
        if one != other:
            same = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
            )
            found.append(f"{name} from {same}: streamed {one[same:][:_SHOWN]!r}, whole {other[same:][:_SHOWN]!r}")
    return found
