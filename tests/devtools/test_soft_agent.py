import hashlib
import hmac

import msgspec
import pytest

from attestream.errors import SignatureError
from attestream.tpm.credential import make_credential
from attestream.tpm.public import parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from devtools import ima_log
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge, Evidence, qualifying_data
from schemas.base import decode, encode
from schemas.enrolment import EnrolChallenge, EnrolRequest, transcript

CHALLENGE = Challenge(
    agent_id="a-1",
    nonce=b"n" * 32,
    seq=7,
    issued_at=1000,
    deadline=2000,
    banks={"sha256": [0, 10], "sha1": [10]},
    ima_from=0,
)


@pytest.fixture(scope="module")
def keys() -> KeyPool:
    return KeyPool(2)


@pytest.fixture
def agent(keys: KeyPool) -> SoftAgent:
    made = SoftAgent("a-1", SoftTpm(ek="p256", ak="p256", keys=keys), enrolment=3, boot_log=b"boot")
    for n in range(3):
        made.run(f"/usr/bin/{n}", bytes((n,)) * 32)
    return made


def asked(**changes: object) -> Challenge:
    return msgspec.structs.replace(CHALLENGE, **changes)


def test_an_answer_proves_what_it_claims(agent: SoftAgent) -> None:
    evidence = decode(encode(agent.answer(CHALLENGE)), Evidence)
    quote = verify_quote_signature(parse_public(agent.tpm.ak_public), evidence.quote, evidence.signature)
    transport = hashlib.sha256(agent.transport_key).digest()
    assert evidence.transport_key == transport
    assert quote.extra_data == qualifying_data(CHALLENGE.nonce, "a-1", transport)
    assert (evidence.agent_id, evidence.enrolment, evidence.seq, evidence.issued_at) == ("a-1", 3, 7, 1000)
    assert evidence.nonce == CHALLENGE.nonce
    assert quote.selection == (("sha256", (0, 10)), ("sha1", (10,)))
    assert {bank: sorted(values) for bank, values in evidence.pcr_values.items()} == {"sha256": [0, 10], "sha1": [10]}
    assert pcr_digest("sha256", quote.selection, evidence.pcr_values) == quote.pcr_digest
    assert evidence.boot_log == b""
    assert agent.is_news(evidence)


def test_the_log_extends_to_the_quoted_pcr_in_each_bank(agent: SoftAgent) -> None:
    agent.violate("/etc/passwd")
    evidence = agent.answer(CHALLENGE)
    assert evidence.ima is not None
    assert evidence.ima.data == b"".join(record.binary for record in agent.log)
    for bank in ("sha1", "sha256"):
        value = bytes(hashlib.new(bank).digest_size)
        for record in agent.log:
            value = hashlib.new(bank, value + ima_log.extend_value(record, bank)).digest()
        assert value == evidence.pcr_values[bank][10]


@pytest.mark.parametrize(("wanted", "first", "count"), [(0, 0, 3), (2, 2, 1), (3, 3, 0), (4, 0, 3), (-1, 0, 3)])
def test_the_log_is_sent_from_where_it_was_asked_or_whole(agent: SoftAgent, wanted: int, first: int, count: int) -> None:
    delta = agent.answer(asked(ima_from=wanted)).ima
    assert delta is not None
    assert (delta.ima_first, delta.count) == (first, count)
    assert delta.data == b"".join(record.binary for record in agent.log[first:])


def test_an_answer_is_bare_only_while_the_digest_is_the_known_one(agent: SoftAgent) -> None:
    first = agent.answer(CHALLENGE)
    known = pcr_digest("sha256", (("sha256", (0, 10)), ("sha1", (10,))), first.pcr_values)
    bare = agent.answer(asked(known_digest=known, ima_from=3, boot_log=True))
    assert (bare.pcr_values, bare.ima, bare.boot_log) == ({}, None, b"")
    assert not agent.is_news(bare)
    agent.run("/usr/bin/new", bytes(32))
    news = agent.answer(asked(known_digest=known, ima_from=3))
    assert news.ima is not None
    assert (news.ima.ima_first, news.ima.count) == (3, 1)
    assert agent.is_news(news)


def test_logs_are_sent_only_when_asked_for(agent: SoftAgent) -> None:
    evidence = agent.answer(asked(ima_from=None, boot_log=True))
    assert evidence.ima is None
    assert evidence.boot_log == b"boot"


def test_a_reboot_starts_log_and_pcrs_over(agent: SoftAgent) -> None:
    agent.reboot()
    agent.boot_aggregate()
    delta = agent.answer(asked(ima_from=3)).ima
    assert delta is not None
    assert (delta.ima_first, delta.count) == (0, 1)
    assert agent.log[0].ascii.endswith(f"sha256:{hashlib.sha256(bytes(320)).hexdigest()} boot_aggregate")


def test_enrolment_proves_the_secret_over_the_transcript(agent: SoftAgent, keys: KeyPool) -> None:
    request = agent.enrol_request(b"r" * 32)
    assert (request.agent_id, request.transport_key, request.nonce) == ("a-1", agent.transport_key, b"r" * 32)
    sent = encode(request)
    received = decode(sent, EnrolRequest)
    ak_name = parse_public(received.ak_public).name
    assert ak_name == agent.tpm.ak_name
    credential, secret = make_credential(parse_public(received.ek_public), ak_name, b"s" * 32)
    challenge = encode(EnrolChallenge(challenge_id=b"c", credential=credential, secret=secret, expires_at=1))
    assert agent.proof(sent, challenge) == hmac.digest(b"s" * 32, transcript(sent, challenge), "sha256")
    stranger = SoftAgent("a-1", SoftTpm(ek="p256", ak="p256"))
    with pytest.raises(SignatureError):
        stranger.proof(sent, challenge)
