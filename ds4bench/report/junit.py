"""JUnit XML of a suite: a test case a gate, as CI systems read it.

FAIL is a failure, INVALID an error; INCONCLUSIVE, SKIPPED and a gate that was not run are skipped cases, because nothing was
shown either way.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ds4bench.core import Verdict
from ds4bench.errors import StoreError

if TYPE_CHECKING:
    from ds4bench.verdicts.promotion import Promotion, SuiteLine

_ELEMENTS = {Verdict.FAIL: "failure", Verdict.INVALID: "error"}


def junit_xml(outcome: Promotion, suite: str) -> str:
    """The document, with declaration."""
    root = ElementTree.Element("testsuites")
    lines = outcome.lines
    count = {name: sum(_element(line) == name for line in lines) for name in ("failure", "error", "skipped")}
    attributes = {
        "name": f"ds4bench.{suite}",
        "tests": str(len(lines)),
        "failures": str(count["failure"]),
        "errors": str(count["error"]),
        "skipped": str(count["skipped"]),
        "time": f"{sum(line.seconds or 0.0 for line in lines):.3f}",
    }
    element = ElementTree.SubElement(root, "testsuite", attributes)
    for line in lines:
        element.append(_case(line, suite))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_junit(path: str, outcome: Promotion, suite: str) -> None:
    """Write the document. Raises StoreError when the file cannot be written."""
    try:
        Path(path).write_text(junit_xml(outcome, suite), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"--junit {path}: cannot be written: {error}") from None


def _case(line: SuiteLine, suite: str) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        {"classname": f"ds4bench.{suite}", "name": f"{line.gate}.{line.profile}", "time": f"{line.seconds or 0.0:.3f}"},
    )
    word = "not run" if line.verdict is None else line.verdict.value
    message = _printable(line.sentence or "not run")
    if (kind := _element(line)) is not None:
        child = ElementTree.SubElement(case, kind, {"message": f"{word}: {message}"})
        if kind != "skipped":
            child.set("type", word)
    details = [_printable(rule.sentence) for rule in line.rules]
    if line.run_id:
        details.append(f"run {line.run_id}")
    ElementTree.SubElement(case, "system-out").text = "\n".join(details or [message])
    return case


def _element(line: SuiteLine) -> str | None:
    if line.verdict is Verdict.PASS:
        return None
    return _ELEMENTS.get(line.verdict, "skipped") if line.verdict is not None else "skipped"


def _printable(text: str) -> str:
    """XML 1.0 has no control characters but tab and line ends."""
    return "".join(c if c in "\t\n" or c.isprintable() else "?" for c in text)
