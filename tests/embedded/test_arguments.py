"""Arguments of ``ds4bench serve embedded`` that cannot be right."""

from __future__ import annotations

import pytest

from ds4bench.embedded.__main__ import main


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("--threads", "0", "from 1 to 1024"),
        ("--port", "999999", "from 0 to 65535"),
        ("--port", "-1", "from 0 to 65535"),
        ("--nice", "50", "from 0 to 19"),
        ("--nice", "many", "'many' is not a whole number"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], argument: str, value: str, words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([f"{argument}={value}"])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
