import pytest

from attestream.errors import PolicyError
from attestream.interop.algorithms import HASHES, is_accepted
from attestream.interop.severity import LABELS, MAX_RULES, SeverityPolicy


def rule(event_id, label):
    return {"event_id": event_id, "severity_label": label}


def test_without_rules_everything_is_as_severe_as_can_be():
    severity = SeverityPolicy().of("ima.pcr_mismatch")
    assert severity == (LABELS[-1], len(LABELS) - 1, True, False)


def test_the_first_rule_that_matches_the_whole_id_decides():
    policy = SeverityPolicy(("low", "high"), [rule("ima", "high"), rule("ima[.].*", "low"), rule(".*", "high")])
    assert policy.of("ima.pcr_mismatch") == ("low", 0, False, True)
    assert policy.of("ima") == ("high", 1, True, True)
    assert policy.of("imax") == ("high", 1, True, True)


def test_an_irrecoverable_event_and_an_unknown_label_are_as_severe_as_can_be():
    policy = SeverityPolicy(("low", "high"), [rule("a", "low"), rule("b", "none such")])
    assert policy.of("a", recoverable=False).label == "high"
    assert policy.of("b") == ("high", 1, True, True)


def test_the_highest_is_the_first_of_the_most_severe():
    policy = SeverityPolicy(("low", "high"), [rule("a.*", "low")])
    assert policy.highest(["a1", "b1", "b2", "a2"]) == "b1"
    assert policy.highest(["a1", "a2"]) == "a1"
    assert policy.highest([]) is None


@pytest.mark.parametrize(
    "rules",
    [
        [{}],
        [{"event_id": "a"}],
        [rule(7, "low")],
        [rule("a", 7)],
        [rule("(", "low")],
        [rule("(?=a)", "low")],
        [rule("a" * 1025, "low")],
        [rule("a", "low")] * (MAX_RULES + 1),
    ],
)
def test_rules_that_are_not_valid_are_refused(rules):
    with pytest.raises(PolicyError):
        SeverityPolicy((), rules)


@pytest.mark.parametrize(
    ("name", "accepted", "good"),
    [
        ("rsa", ["rsa2048"], True),
        ("rsa2048", ["rsa"], True),
        ("rsa4096", ["rsa"], False),
        ("ecc256", ["ecc"], True),
        ("ecc", ["ecc256"], True),
        ("ecc384", ["ecc"], False),
        ("sha256", [], False),
        ("sm3_256", ["sm3_256"], True),
    ],
)
def test_a_kind_of_key_without_a_size_means_its_default(name, accepted, good):
    assert is_accepted(name, accepted) is good


def test_hashes_are_recognised_under_the_names_of_tpm2_tools():
    assert HASHES["sm3_256"] == 32
