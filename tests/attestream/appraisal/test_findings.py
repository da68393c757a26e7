import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.collector import MAX_FINDINGS, Collector
from attestream.appraisal.findings import FINDINGS, finding
from attestream.appraisal.text import MAX_CULPRIT, printable


@pytest.mark.parametrize("kind", FINDINGS.values(), ids=lambda kind: kind.code)
def test_registry_entries_are_complete(kind):
    assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z0-9]+)*", kind.code)
    assert kind.layer in ("identity", "quote", "boot", "runtime", "limits")
    assert (kind.layer == "limits") is kind.code.startswith(("capacity.", "limits."))
    assert kind.severity in ("info", "warning", "failure")
    assert kind.summary.endswith(".")
    assert kind.remedy.endswith(".")
    assert finding(kind.code).message == kind.summary


def test_codes_are_unique_and_unknown_ones_are_refused():
    with pytest.raises(KeyError):
        finding("runtime.made-up")


@given(st.binary(max_size=700))
def test_printable_bytes(data):
    text = printable(data)

    assert text.isprintable()
    assert len(text) <= MAX_CULPRIT


@given(st.text(max_size=700))
def test_printable_text(data):
    text = printable(data)

    assert text.isprintable()
    assert len(text) <= MAX_CULPRIT


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_printable_tells_different_bytes_apart(one, other):
    assert (printable(one) == printable(other)) is (one == other)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"/usr/bin/ls", "/usr/bin/ls"),
        ("/usr/bin/ä".encode(), "/usr/bin/ä"),
        (b"/a\x1b[2J\n", "/a\\x1b[2J\\x0a"),
        (b"/a\xff", "/a\\xff"),
        ("/a\u202eb".encode(), "/a\\u202eb"),
        (b"/a\\x0a", "/a\\\\x0a"),
        (b"a" * 600, "a" * 509 + "..."),
        (b"a" * 512, "a" * 512),
        ("\U0001f600" * 513, "\U0001f600" * 509 + "..."),
        (("\U0001f600" * 513).encode(), "\U0001f600" * 509 + "..."),
    ],
)
def test_printable_examples(data, text):
    assert printable(data) == text


def test_many_findings_are_bounded_and_summed_up():
    collector = Collector()
    for number in range(MAX_FINDINGS + 5):
        collector.add("runtime.violation", f"/{number}")

    found = collector.all()

    assert len(found) == MAX_FINDINGS + 1
    assert found[-1].code == "runtime.more-findings"
    assert found[-1].message.startswith("5 ")
    assert not collector.failed
    assert all(item.severity != "failure" for item in found)


def test_failure_behind_the_bound_is_listed_first():
    """An attacker could make warnings to hide the culprit behind them."""
    collector = Collector()
    for number in range(MAX_FINDINGS):
        collector.add("runtime.violation", f"/{number}")
    collector.add("runtime.path-unknown", "/evil")

    assert collector.failed
    assert collector.all()[0].culprit == "/evil"
    assert len(collector.all()) == MAX_FINDINGS + 1
