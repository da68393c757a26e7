"""Each test of the policy language: what passes, and what is said of what does not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import PolicyError
from attestream.uefi import kinds
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.guid import CERT_SHA256, IMAGE_SECURITY_DATABASE
from attestream.uefi.policy.delayed import DelayedField, DelayToFields
from attestream.uefi.policy.keys import (
    KeySubset,
    KeySubsetMulti,
    KeySuperset,
    SignatureSetMember,
    SignatureTest,
    SupersetOfDicts,
    VariableDispatch,
    VariableTest,
)
from attestream.uefi.policy.logic import AcceptAll, And, Evaluation, OnceTest, Or, RejectAll, Test, shown
from attestream.uefi.policy.measured import DigestsTest, DigestTest, EvEfiActionTest, EvSeperatorTest
from attestream.uefi.policy.structure import Dispatcher, FieldsTest, FieldTest, IterateTest, TupleTest
from attestream.uefi.policy.values import IntEqual, RegExp, StringEqual
from devtools.boot_log import BootLog, signature_list
from devtools.boot_log import variable as variable_data
from devtools.grub_boot import OWNER

NO = RejectAll("is refused")
YES = AcceptAll()
A, B = ({"SignatureOwner": "o", "SignatureData": letter} for letter in "ab")


def described(digests: list[bytes]) -> list:
    """Return the ``Keys`` of a log whose dbx has ``digests``."""
    log = BootLog(("sha256",))
    lists = signature_list(CERT_SHA256, OWNER, digests)
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable_data(IMAGE_SECURITY_DATABASE, "dbx", lists))
    return to_dictionary(bytes(log))["events"][-1]["Event"]["VariableData"][0]["Keys"] or []


def asked(test: Test, subject: object) -> str:
    return test.why_not(Evaluation(), subject)


def event(text: str, **digests: str) -> dict:
    return {"Event": text, "Digests": [{"AlgorithmId": bank, "Digest": value} for bank, value in digests.items()]}


@pytest.mark.parametrize(
    ("test", "subject", "reason"),
    [
        (YES, object(), ""),
        (NO, None, "is refused"),
        (And(), 1, ""),
        (And(YES, IntEqual(1)), 1, ""),
        (And(IntEqual(2), NO), 1, "is not 2"),
        (Or(), 1, "does not pass empty disjunction"),
        (Or(NO, YES, NO), 1, ""),
        (Or(NO, IntEqual(2)), 1, "[is refused, is not 2]"),
        (IntEqual(1), "1", "is not a int"),
        (StringEqual("a"), "a", ""),
        (StringEqual("a"), 1, "is not a str"),
        (StringEqual("\u00e9"), "a", "is not '\\xe9'"),
        (RegExp("a+"), "aaa", ""),
        (RegExp("a+"), "aab", "does not match a+"),
        (RegExp("a+"), "baa", "does not match a+"),
        (RegExp("a|ab"), "ab", ""),
        (RegExp("a.b"), "a\nb", "does not match a.b"),
        (RegExp("a.b", dot_all=True), "a\nb", ""),
        (RegExp("A", ignore_case=True), "a", ""),
        (RegExp(".*"), "\ud800", "does not match .*"),
        (RegExp("a.*"), "abc", ""),
        (RegExp("a.*"), "bac", "does not match a.*"),
        (RegExp("a.*"), "ab\n", "does not match a.*"),
        (RegExp("a.*", dot_all=True), "ab\n", ""),
        (RegExp(".*/a.*"), "x/ab", ""),
        (RegExp(".*/a.*"), "xab", "does not match .*/a.*"),
        (RegExp(".*/a.*"), "x/a\n", "does not match .*/a.*"),
        (RegExp(".*/a.*", dot_all=True), "\nx/a\n", ""),
        (RegExp(".*/a.*"), "\u00e9/a", ""),
        (RegExp(".*/a.*", ignore_case=True), "/A", ""),
        (RegExp("a"), None, "is not a str"),
        (FieldTest("f", IntEqual(1)), {"f": 1}, ""),
        (FieldTest("f", IntEqual(1)), {"f": 2}, "f is not 1"),
        (FieldTest("f", IntEqual(1), show_name=False), {"f": 2}, "is not 1"),
        (FieldTest("f", YES), {}, "has no 'f' field"),
        (FieldTest("f", YES), [], "is not a dict"),
        (FieldsTest(a=IntEqual(1), b=IntEqual(2)), {"a": 1, "b": 3}, "b is not 2"),
        (IterateTest(IntEqual(1)), [1, 1], ""),
        (IterateTest(IntEqual(1)), [], ""),
        (IterateTest(IntEqual(1)), [1, 2], "[1] is not 1"),
        (IterateTest(IntEqual(1), show_elt=True), [1, {"\u00e9": 2}], "{'\\xe9': 2} is not a int"),
        (IterateTest(YES), (), "is not a list"),
        (TupleTest(), [], ""),
        (TupleTest(IntEqual(1), IntEqual(2)), [1, 2], ""),
        (TupleTest(IntEqual(1), IntEqual(2)), [1, 3], "[1] is not 2"),
        (TupleTest(YES), [1, 2], " is longer (2) than the applicable tests (1)"),
        (TupleTest(YES, YES), [1], " is shorter (1) than the applicable tests (2)"),
        (TupleTest(YES, YES, pad=True), [1], ""),
        (TupleTest(YES, IntEqual(1), pad=True), [1], "[1] is not a int"),
        (TupleTest(YES), "a", "is not a list"),
    ],
)
def test_combinations_and_values(test, subject, reason):
    assert asked(test, subject) == reason


def test_a_dispatcher_asks_the_test_for_the_values():
    test = Dispatcher(("PCRIndex", "EventType"))
    test.set((8, "EV_IPL"), IntEqual(1))
    test.set((9, "EV_IPL"), YES)
    assert asked(test, {"PCRIndex": 9, "EventType": "EV_IPL"}) == ""
    assert asked(test, {"PCRIndex": 8, "EventType": "EV_IPL"}) == "is not a int"
    assert asked(test, {"PCRIndex": 8}) == "has no EventType"
    assert asked(test, 8) == "is not a dict"
    unexpected = "has unexpected ('PCRIndex', 'EventType') combination (7, 'EV_IPL')"
    assert asked(test, {"PCRIndex": 7, "EventType": "EV_IPL"}) == unexpected
    assert "unexpected" in asked(test, {"PCRIndex": [8], "EventType": "EV_IPL"})


def test_a_delayed_test_judges_what_was_gathered():
    late = DelayToFields(FieldsTest(seen=TupleTest(IntEqual(1), IntEqual(2)), other=TupleTest()), "seen", "other")
    test = And(late.get_initializer(), IterateTest(late.get("seen")), late)
    assert asked(test, [1, 2]) == ""
    assert asked(test, [1]) == "seen  is shorter (1) than the applicable tests (2)"
    evaluation = Evaluation()
    assert [test.why_not(evaluation, [1, 2]) for _ in range(2)] == ["", ""]


def test_a_delayed_field_that_runs_before_its_initializer_is_an_error():
    late = DelayToFields(YES, "seen")
    with pytest.raises(PolicyError):
        asked(late.get("seen"), 1)
    with pytest.raises(PolicyError):
        asked(late, 1)


def test_once_means_once_in_an_evaluation_and_not_for_ever():
    once = OnceTest(IntEqual(1))
    for _ in range(2):
        assert asked(IterateTest(once), [1, 1]) == "[1] test was already run once"
        assert asked(And(once), 1) == ""


DIGESTS = DigestsTest([{"sha1": "1", "sha256": "2"}, {"sha256": "3"}])


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (event("", sha256="3"), ""),
        (event("", sha512="9", sha1="1"), ""),
        (event("", sha256="1"), "has no digest approved by {'sha1': {'1'}, 'sha256': {'2', '3'}}"),
        (event(""), "has no digest approved by {'sha1': {'1'}, 'sha256': {'2', '3'}}"),
        ([], "is not a dict"),
        ({}, "has no Digests"),
        ({"Digests": None}, "Digests is not a list"),
        ({"Digests": [1]}, "Digests[0] is 1, not a dict"),
        ({"Digests": [{"Digest": "3"}]}, "digest 0 has no AlgorithmId"),
        ({"Digests": [{"AlgorithmId": "sha256"}]}, "digest 0 has no Digest"),
        ({"Digests": [{"AlgorithmId": 1, "Digest": "3"}]}, "Digests[0].AlgorithmId is 1, not a str"),
        ({"Digests": [{"AlgorithmId": "sha256", "Digest": 3}]}, "Digests[0].Digest is 3, not a str"),
    ],
)
def test_digests(subject, reason):
    assert asked(DIGESTS, subject) == reason


@pytest.mark.parametrize("value", ["00000000", "FFFFFFFF"])
def test_separators(value):
    digest = hashlib.sha256(bytes.fromhex(value)).hexdigest()
    assert asked(EvSeperatorTest(), event(value, sha256=digest)) == ""
    assert "has no digest approved by" in asked(EvSeperatorTest(), event(value, sha256="00" * 32))
    error = hashlib.sha256(bytes([1, 0, 0, 0])).hexdigest()
    other = "[Event is not '00000000', Event is not 'FFFFFFFF']"
    assert asked(EvSeperatorTest(), event("01000000", sha256=error)) == other


def test_actions():
    text = "Exit Boot Services Invocation"
    good = event(text, sha256=hashlib.sha256(text.encode()).hexdigest())
    assert asked(EvEfiActionTest(5), good) == ""
    assert "Event is not 'UEFI Debug Mode'" in asked(EvEfiActionTest(6), good)
    assert asked(EvEfiActionTest(2), good) == "No EV_EFI_ACTION event for 2 is expected in the spec"
    assert "no digest approved" in asked(EvEfiActionTest(5), event(text, sha256="00"))


def lists(*keys, kind="x"):
    return {"SignatureType": kind, "Keys": list(keys)}


@pytest.mark.parametrize(
    ("test", "subject", "reason"),
    [
        (SignatureTest("o", "a"), A, ""),
        (SignatureTest("o", "b"), A, "SignatureData is not 'b'"),
        (SignatureTest("p", "a"), A, "SignatureOwner is not 'p'"),
        (SignatureSetMember([A, B]), B, ""),
        (SignatureSetMember([A, A]), B, "[SignatureData is not 'a', SignatureData is not 'a']"),
        (SignatureSetMember([]), B, "does not pass empty disjunction"),
        (SignatureSetMember([A]), {"SignatureOwner": "o", "SignatureData": []}, "[SignatureData is not a str]"),
        (SignatureSetMember([A]), 1, "[is not a dict]"),
        (KeySubset("x", [A, B]), [lists(A), lists(B, A)], ""),
        (KeySubset("x", [A]), [lists(A), lists(A, B)], "[1] Keys [1] [SignatureData is not 'a']"),
        (KeySubset("x", [A]), [lists(A, kind="y")], "[0] SignatureType is not 'x'"),
        (KeySubset("x", [A]), None, "is not a list"),
        (KeySubsetMulti(["x", "y"], [A]), [lists(A, kind="y"), lists(A)], ""),
        (
            KeySubsetMulti(["x", "y"], [A]),
            [lists(B)],
            "[0] [Keys [0] [SignatureData is not 'a'], SignatureType is not 'y']",
        ),
        (KeySuperset("x", [A]), [lists(B, A)], ""),
        (KeySuperset("x", []), [lists(B)], ""),
        (
            KeySuperset("x", [A, B]),
            [lists()],
            "[0] Keys lacks ('SignatureOwner', 'SignatureData') combinations {('o', 'a'), ('o', 'b')}",
        ),
        (KeySuperset("x", [A]), [lists(A), lists(B)], " is longer (2) than the applicable tests (1)"),
        (SupersetOfDicts([{"a": 1}], ("a",)), [{"a": 1}, {"a": 2}], ""),
        (SupersetOfDicts([{"a": 1}], ("a",)), 1, "is not a list"),
        (SupersetOfDicts([{"a": 1}], ("a",)), [1], "member 1 is not a dict"),
        (
            SupersetOfDicts([{"a": 1}], ("a",)),
            [{"b": 1}],
            "member {'b': 1} does not have the right set of field names ('a',)",
        ),
    ],
)
def test_keys(test, subject, reason):
    assert asked(test, subject) == reason


def variable(name="guid", unicode_name="db", data=1):
    return {"Event": {"VariableName": name, "UnicodeName": unicode_name, "VariableData": data}}


@pytest.mark.parametrize("owner", [OWNER, OWNER.upper(), f"{{{OWNER}}}", "o", 1], ids=str)
@pytest.mark.parametrize("data", ["ab" * 32, "AB" * 32, "12" * 32, "no digits", None], ids=str)
def test_signatures_of_a_log_are_judged_as_those_of_any_list(owner, data):
    parts = [bytes([number]) * 32 for number in (0xAB, 0x12, 0xCD)]
    forms = [described(parts[:count]) for count in range(4)]
    required = [{"SignatureOwner": owner, "SignatureData": data}, {"SignatureOwner": OWNER, "SignatureData": "cd" * 32}]
    for reqs in (required, required[:1], required[1:], []):
        test = SupersetOfDicts(reqs, ("SignatureOwner", "SignatureData"))
        for form in forms:
            assert asked(test, form) == asked(test, [dict(member) for member in form])


def test_signatures_of_a_log_pass_for_nothing_else():
    form = described([b"\xab" * 32])
    assert "right set of field names" in asked(SupersetOfDicts([], ("a",)), form)


def test_what_a_log_forbids_is_found_among_its_signatures():
    reqs = [{"SignatureOwner": OWNER, "SignatureData": digits * 32} for digits in ("ab", "cd")]
    test = KeySuperset("x", reqs)
    both, one = (described([bytes.fromhex(digits) * 32 for digits in found]) for found in (("ef", "cd", "ab"), ("ef", "ab")))
    assert asked(test, [{"SignatureType": "x", "Keys": both}]) == ""
    reason = asked(test, [{"SignatureType": "x", "Keys": one}])
    assert reason.startswith("[0] Keys lacks")
    assert "cdcd" in reason
    assert "abab" not in reason


@pytest.mark.parametrize(
    ("test", "subject", "reason"),
    [
        (VariableTest("guid", "db", IntEqual(1)), variable(), ""),
        (VariableTest("guid", "db", IntEqual(1)), variable(data=2), "is not 1"),
        (VariableTest("guid", "db", YES), variable("other"), "Event.VariableName is other rather than guid"),
        (VariableTest("guid", "db", YES), variable(unicode_name="x"), "Event.UnicodeName is x rather than db"),
        (VariableTest("guid", RegExp("d."), YES), variable(), ""),
        (VariableTest("guid", RegExp("d"), YES), variable(), "Event.UnicodeName, db, does not match d"),
        (VariableTest("guid", "db", YES), variable(unicode_name=1), "Event.UnicodeName is not a str"),
        (VariableTest("guid", "db", YES), 1, "is not a dict"),
        (VariableTest("guid", "db", YES), {}, "has no Event field"),
        (VariableTest("guid", "db", YES), {"Event": 1}, "Event is not a dict"),
        (VariableTest("guid", "db", YES), {"Event": {}}, "Event has no VariableName field"),
        (VariableTest("guid", "db", YES), {"Event": {"VariableName": "guid"}}, "Event has no UnicodeName field"),
    ],
)
def test_variables(test, subject, reason):
    assert asked(test, subject) == reason


def test_a_variable_dispatch_asks_about_the_data():
    test = VariableDispatch()
    test.set("guid", "db", IntEqual(1))
    assert asked(test, variable()) == ""
    assert asked(test, variable(data=2)) == "Event VariableData is not 1"
    unexpected = "Event has unexpected ('VariableName', 'UnicodeName') combination ('guid', 'PK')"
    assert asked(test, variable(unicode_name="PK")) == unexpected
    assert asked(test, {"Event": "text"}) == "Event is not a dict"


def _twice():
    test = Dispatcher(("a",))
    test.set((1,), YES)
    test.set((1,), YES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RejectAll(""),
        lambda: And(YES, None),
        lambda: Or(1),
        lambda: OnceTest(None),
        lambda: Dispatcher(()),
        lambda: Dispatcher((1,)),
        lambda: Dispatcher(("a",)).set((1, 2), YES),
        _twice,
        lambda: FieldTest(1, YES),
        lambda: FieldTest("a", "b"),
        lambda: DelayedField(DelayToFields(YES, "a"), "b"),
        lambda: IntEqual("1"),
        lambda: StringEqual(1),
        lambda: RegExp("("),
        lambda: RegExp("(?=a)a"),
        lambda: RegExp(r"(a)\1"),
        lambda: RegExp("a" * 70_000),
        lambda: DigestsTest(["sha256"]),
        lambda: DigestTest("sha256"),
        lambda: VariableTest("guid", 1, YES),
        lambda: SignatureSetMember([{"SignatureOwner": "o"}]),
        lambda: SupersetOfDicts([{"a": 1}], ("b",)),
        lambda: SupersetOfDicts([{"a": [1]}], ("a",)),
    ],
)
def test_a_test_that_is_put_together_wrongly_is_refused(make):
    with pytest.raises(PolicyError):
        make()


def test_sets_are_shown_in_order():
    assert shown({"a": {"2", "1"}, "b": set()}) == "{'a': {'1', '2'}, 'b': set()}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Event", "Digests", "Keys", "PCRIndex", "SignatureType"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_value_makes_a_test_raise(value):
    dispatcher = Dispatcher(("PCRIndex",))
    variables = VariableDispatch()
    variables.set("guid", "db", KeySubset("x", [A]))
    tests = [
        DIGESTS,
        EvSeperatorTest(),
        EvEfiActionTest(5),
        KeySubset("x", [A]),
        KeySuperset("x", [A]),
        SignatureSetMember([A]),
        VariableTest("guid", RegExp("."), YES),
        dispatcher,
        variables,
        TupleTest(YES, StringEqual("a"), pad=True),
    ]
    for test in tests:
        assert isinstance(asked(test, value), str)
