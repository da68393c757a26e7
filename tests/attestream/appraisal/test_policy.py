import hashlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.appraisal.policy import compile_policy, policy_from_log
from attestream.appraisal.runtime_document import MAX_EXCLUDES
from attestream.appraisal.runtime_policy import Proofs
from attestream.errors import MalformedError, PolicyError
from attestream.ima.digests import digest_field
from attestream.ima.log import Entry
from devtools import ima_log

D1, D2 = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()
HEX1, HEX2 = "sha256:" + D1.hex(), "sha256:" + D2.hex()


def document(**changes):
    made = {
        "format": "attestream-policy/1",
        "bank": "sha256",
        "pcrs": {"0": ["00" * 32], "7": ["11" * 32, "22" * 32]},
        "runtime": {"digests": {"/bin/a": [HEX1], "/bin/b": [HEX1, HEX2]}, "excludes": ["/tmp/.*"]},
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def compiled(**changes):
    return compile_policy(json.dumps(document(**changes)).encode())


def judge(policy, path, digest):
    entry = Entry(10, b"ima-ng", path, digest, b"", False, True, b"")
    return policy.decide(entry, Proofs()).code


def judged(path, digest=D1, **runtime):
    policy = compiled(runtime={**document()["runtime"], **runtime}).runtime
    assert policy is not None
    return judge(policy, path, digest_field("sha256", digest))


def test_compiled_form():
    data = json.dumps(document()).encode()

    policy = compile_policy(data)

    assert policy.digest == hashlib.sha256(data).hexdigest()
    assert policy.selection == {"sha256": [0, 7, 10]}
    assert policy.signed_selection == (("sha256", (0, 7, 10)),)
    assert policy.pcrs == {0: frozenset({bytes(32)}), 7: frozenset({b"\x11" * 32, b"\x22" * 32})}
    assert (policy.recovery, policy.entries) == ("operator", 6)


def test_parts_are_optional():
    assert compiled(pcrs=None).selection == {"sha256": [10]}
    assert compiled(runtime=None).selection == {"sha256": [0, 7]}
    assert compiled(runtime=None).runtime is None
    assert compiled(bank="sha512", pcrs={"0": ["00" * 64]}).bank == "sha512"


def test_files():
    assert judged(b"/bin/a") == ""
    assert judged(b"/bin/b", D2) == ""
    assert judged(b"/bin/a", D2) == "runtime.digest-unknown"
    assert judged(b"/bin/c") == "runtime.path-unknown"
    assert judged(b"/tmp/x") == ""


def test_digest_of_another_algorithm_does_not_match():
    policy = compiled().runtime
    assert policy is not None

    assert judge(policy, b"/bin/a", digest_field("sm3", D1)) == "runtime.digest-unknown"


def test_part_of_an_allowed_digest_does_not_match():
    """A single digest is stored unwrapped: membership must never become a search for a part."""
    policy = compiled().runtime
    assert policy is not None

    assert judge(policy, b"/bin/a", digest_field("sha256", D1)[:-1]) == "runtime.digest-unknown"
    assert judge(policy, b"/bin/a", b"") == "runtime.digest-unknown"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (b"/tmp/x", True),
        (b"/tmp/", True),
        (b"/srv/tmp/x", False),
        (b"/tmp", False),
        pytest.param(b"/tmp/a\nb", False, id="a dot matches no newline"),
        pytest.param(b"/tmp/\xff", False, id="a dot matches no byte that is not UTF-8"),
        (b"/var/log/x", True),
        (b"/var/log/x/y", False),
    ],
)
def test_excludes_match_the_whole_path(path, allowed):
    assert (judged(path, excludes=["/tmp/.*", "/var/log/[^/]*"]) == "") is allowed


def test_alternatives_do_not_leak_out_of_an_exclude():
    """`/a|/b` next to another expression must not change what either matches."""
    assert judged(b"/b/x", excludes=["/a|/b", "/c/.*"]) == "runtime.path-unknown"
    assert judged(b"/b", excludes=["/a|/b", "/c/.*"]) == ""


def test_flag_of_one_exclude_does_not_reach_the_next():
    assert judged(b"/VAR", excludes=["(?i)/tmp", "/var"]) == "runtime.path-unknown"
    assert judged(b"/TMP", excludes=["(?i)/tmp", "/var"]) == ""


def test_no_exclude_excludes_nothing():
    assert judged(b"", excludes=[]) == "runtime.path-unknown"


@pytest.mark.alone
def test_expression_that_takes_exponential_time_elsewhere():
    """ReDoS: a backtracking engine needs 2^40 steps for this one."""
    started = time.perf_counter()

    assert judged(b"/" + b"a" * 4000 + b"!", excludes=["/(a+)+$", "/(a|aa)*b", "/(.*)*x"]) == "runtime.path-unknown"

    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"format": "attestream-policy/2"}, "format"),
        ({"bank": "sha1"}, "bank"),
        ({"bank": ["sha256"]}, "bank"),
        ({"recovery": "never"}, "recovery"),
        ({"description": 1}, "description"),
        ({"excludes": []}, "'excludes'"),
        ({"pcrs": None, "runtime": None}, "`boot` or `runtime`"),
        ({"pcrs": {}}, "pcrs"),
        ({"pcrs": []}, "pcrs"),
        ({"pcrs": {"10": ["00" * 32]}}, "pcrs.10"),
        ({"pcrs": {"24": ["00" * 32]}}, "'24'"),
        ({"pcrs": {"07": ["00" * 32]}}, "'07'"),
        ({"pcrs": {"-1": ["00" * 32]}}, "'-1'"),
        ({"pcrs": {"\u0663": ["00" * 32]}}, "\u0663"),
        ({"pcrs": {"7" * 5000: ["00" * 32]}}, "pcrs['777"),
        ({"pcrs": {"": ["00" * 32]}}, "''"),
        ({"pcrs": {"7": []}}, "pcrs.7"),
        ({"pcrs": {"7": "00" * 32}}, "pcrs.7"),
        ({"pcrs": {"7": ["00" * 20]}}, "pcrs.7[0]"),
        ({"pcrs": {"7": ["00" * 32, "00 " * 32]}}, "pcrs.7[1]"),
        ({"pcrs": {"7": [7]}}, "pcrs.7[0]"),
        ({"runtime": None, "pcrs": {"7": [None]}}, "pcrs.7[0]"),
        ({"runtime": []}, "runtime"),
        ({"runtime": {}}, "'digests'"),
        ({"runtime": {"digests": {}, "exclude": []}}, "'exclude'"),
        ({"runtime": {"digests": []}}, "runtime.digests"),
        ({"runtime": {"digests": {"": [HEX1]}}}, "runtime.digests['']"),
        ({"runtime": {"digests": {"/a\x00b": [HEX1]}}}, "runtime.digests['/a\\\\x00b']"),
        ({"runtime": {"digests": {"/a": []}}}, "runtime.digests['/a']"),
        ({"runtime": {"digests": {"/a": [D1.hex()]}}}, "runtime.digests['/a'][0]"),
        ({"runtime": {"digests": {"/a": [HEX1, "sha1:00"]}}}, "runtime.digests['/a'][1]"),
        ({"runtime": {"digests": {"/a": ["md5:" + "00" * 16]}}}, "too weak"),
        ({"runtime": {"digests": {"/a": [1]}}}, "runtime.digests['/a'][0]"),
        ({"runtime": {"digests": {"/a\ud800": [HEX1]}}}, "is not a path"),
        ({"runtime": {"digests": {}, "excludes": "/tmp"}}, "runtime.excludes"),
        ({"runtime": {"digests": {}, "excludes": ["/tmp", "("]}}, "runtime.excludes[1]"),
        ({"runtime": {"digests": {}, "excludes": ["(", ")"]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": ["(?=a)"]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": [r"(a)\1"]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": [""]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": ["a" * 1025]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": ["((a{100}){100}){100}"]}}, "runtime.excludes[0]"),
        ({"runtime": {"digests": {}, "excludes": ["a"] * (MAX_EXCLUDES + 1)}}, "runtime.excludes"),
        ({"runtime": {"digests": {}, "excludes": ["\ud800"]}}, "runtime.excludes[0]"),
    ],
)
def test_invalid_document_names_the_place(changes, place):
    with pytest.raises(PolicyError) as caught:
        compiled(**changes)

    assert place in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}"])
def test_what_is_not_a_json_object(data):
    with pytest.raises(PolicyError):
        compile_policy(data)


def test_repeated_key_is_refused():
    """The last one would silently win, and the reader of the document would see the first."""
    text = json.dumps(document()).replace('"/bin/a"', '"/bin/b"')

    with pytest.raises(PolicyError, match=r"/bin/b.*twice"):
        compile_policy(text.encode())


def test_hexadecimal_may_be_upper_case():
    policy = compiled(runtime={"digests": {"/a": ["sha256:" + D1.hex().upper()]}}).runtime

    assert judge(policy, b"/a", b"sha256:\x00" + D1) == ""


paths = (
    st.binary(min_size=1, max_size=30)
    .filter(lambda path: b"\x00" not in path)
    .map(lambda p: p.decode("utf-8", "surrogateescape"))
)


@given(st.lists(st.tuples(paths, st.sampled_from([D1, D2])), max_size=8))
def test_policy_learned_from_a_log_allows_that_log(files):
    made = [ima_log.record(path, digest) for path, digest in files]
    log = b"".join(record.binary for record in (*made, ima_log.violation("/violated")))

    policy = compile_policy(json.dumps(policy_from_log(log, excludes=["/tmp/.*"])).encode())

    assert policy.runtime is not None
    assert policy.entries == len({(path.replace(" ", "_"), digest) for path, digest in files})
    for path, digest in files:
        recorded = path.replace(" ", "_").encode("utf-8", "surrogateescape")
        assert judge(policy.runtime, recorded, digest_field("sha256", digest)) == ""
    assert judge(policy.runtime, b"/violated", digest_field("sha256", bytes(32))) == "runtime.path-unknown"


def test_policy_learned_from_the_ascii_form_is_the_same():
    made = [ima_log.record("/a", D1), ima_log.record("/b", D2, template="ima-sig", signature=b"\x03")]

    from_ascii = policy_from_log("".join(f"{record.ascii}\n" for record in made).encode(), ascii_form=True)

    assert from_ascii == policy_from_log(b"".join(record.binary for record in made))


def test_no_policy_is_learned_from_a_log_that_was_changed():
    forged = ima_log.record("/bin/a", D1).binary.replace(b"/bin/a", b"/bin/b")

    with pytest.raises(MalformedError):
        policy_from_log(forged)
