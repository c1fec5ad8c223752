"""Generated text for long prompts, from templates and words under ``prompts/long-context``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir


@dataclass(frozen=True)
class Filler:
    """The raw material of a prompt."""

    introduction: str
    code_sentences: list[str]
    question: str
    padding: str
    templates: list[str]
    words: dict[str, list[str]]

    def sentences(self, rng: random.Random, count: int) -> list[str]:
        """``count`` sentences drawn from ``rng``."""
        names = list(self.words)
        out = []
        for _ in range(count):
            template = rng.choice(self.templates)
            out.append(template.format_map({name: rng.choice(self.words[name]) for name in names}))
        return out

    def compose(self, salt: str, sentences: list[str], codes: list[str], padding: int) -> str:
        """The prompt: salt, introduction, sentences with the codes at 10, 50 and 90 %, padding words, question."""
        body = list(sentences)
        for share, template, code in reversed(list(zip((0.1, 0.5, 0.9), self.code_sentences, codes, strict=True))):
            body.insert(int(len(sentences) * share), template.format(code=code))
        return f"{salt}{self.introduction}\n\n{' '.join(body)}{self.padding * padding}\n\n{self.question}"


def load_filler(path: Path | None = None) -> Filler:
    """Read the filler file. Raises WorkloadError when it is missing or not as it should be."""
    import yaml

    path = path or prompts_dir() / "long-context" / "filler.yaml"
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text())
        return Filler(**data)
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise WorkloadError(f"{path}: cannot be read as long-context filler: {error}") from error
