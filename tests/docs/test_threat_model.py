"""Every claim of the threat model names a test, and the test is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security" / "threat-model.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", TEXT)))


@cache
def defined_in(file):
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if hasattr(part, "name")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_it_names_exists(name):
    file, _, test = name.partition("::")
    assert (ROOT / file).is_file(), file
    assert test in defined_in(file)
    assert test.rpartition("::")[2].startswith("test_")


def test_every_claim_names_one():
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    claims, shown = 0, False
    for row, following in zip(rows, [*rows[1:], ""], strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        if set(following) <= set("| -") and following:
            shown = cells[-1] == "Shown by"
        elif shown and not set(row) <= set("| -"):
            claims += 1
            assert "::test_" in cells[-1], row
    assert claims > 50


@pytest.mark.parametrize(
    "attacker",
    ["network", "agent's host", "stolen disk", "stolen enrolment", "broker", "tenant", "registrar", "verifier", "notifier"],
)
def test_every_attacker_is_there_with_what_it_can_do(attacker):
    [part] = [part for part in TEXT.split("\n## ")[1:] if attacker in part.partition("\n")[0].lower()]
    assert "**can**" in part
    assert "can not | Shown by |" in part
