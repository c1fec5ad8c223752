"""The command that goes on with a run."""

from __future__ import annotations

import shlex

from ds4bench.commands.resume_hint import resume_command

RUN = "20261101-000000-needle-smoke-aaaa"


def test_it_keeps_who_answers_and_drops_what_the_run_has_itself() -> None:
    words = ["/bin/ds4bench", "gate", "my gate.yaml", "--profile", "smoke", "--set", "a=b", "--set=c=d", "--repeats=3"]
    words += ["--target", "attach", "--url", "http://127.0.0.1:9", "--baseline", "here", "--resume", "old"]
    assert shlex.split(resume_command(words, RUN)) == [
        *("ds4bench", "gate", "my gate.yaml", "--target", "attach", "--url", "http://127.0.0.1:9"),
        *("--baseline", "here", "--resume", RUN),
    ]


def test_a_module_is_called_by_its_name_and_a_key_is_asked_for_again() -> None:
    shown = resume_command(["/x/ds4bench/cli.py", "gate", "needle", "--serve-arg=--api-key=sk-abcdefgh"], RUN)
    assert shown.startswith("ds4bench gate needle ")
    assert "sk-abcdefgh" not in shown
    assert shown.endswith("(begun with a key that is not stored: give it again)")
