import base64
import datetime as dt
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestream.bus import stored
from attestream.config import NotifierConfig, Webhook
from attestream.errors import ConfigError
from attestream.signing import Signer, TrustedKeys
from schemas import subjects, topology
from schemas.base import decode
from schemas.events import DeadLetter, Event, EventKind, Revocation, Signed, Standing
from services.notifier.revoker import revocation
from services.notifier.service import notifying
from services.notifier.webhook import LONGEST_DELAY_S, delay_s


def config(*webhooks: Webhook, base: float = 0.02, **more) -> NotifierConfig:
    return NotifierConfig(webhooks=list(webhooks), retry_base_s=base, **more)


def hook(receiver, name="siem", **more) -> Webhook:
    return Webhook(name=name, url=receiver.url, **{"timeout_s": 2.0, **more})


async def test_receiver_gets_the_revocation_and_its_proof(bus, signer, receiver, fail, eventually):
    async with notifying(bus, config(hook(receiver)), signer):
        event_id = await fail("a")
        await eventually(lambda: receiver.documents)
    (document,) = receiver.documents
    assert document["id"] == event_id
    assert (document["agent_id"], document["standing"], document["enrolment"]) == ("a", "failed", 2)
    assert document["findings"][0]["culprit"] == "/usr/bin/evil"
    assert document["findings"][0]["code"] == "runtime.unknown-file"
    envelope = document["signed"]
    signed = Signed(
        payload=base64.b64decode(envelope["payload"]),
        key_id=envelope["key_id"],
        algorithm=envelope["algorithm"],
        signature=base64.b64decode(envelope["signature"]),
    )
    assert TrustedKeys.from_pems([signer.public_pem]).open(signed, Revocation).id == event_id
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert receiver.headers[0]["Idempotency-Key"] == event_id


async def test_receiver_down_while_ten_agents_fail_gets_all_ten_after_it_returns(
    bus, signer, make_receiver, fail, revocations, eventually
):
    receiver = make_receiver()
    async with notifying(bus, config(hook(receiver)), signer):
        ids = [await fail(f"agent-{number}") for number in range(10)]
        await eventually(lambda: _as_many(revocations, 10))
        assert receiver.documents == []
        await receiver.start()
        await eventually(lambda: len(receiver.documents) >= 10)
    assert receiver.ids == ids


async def _as_many(revocations, count):
    return len(await revocations()) >= count


async def test_receiver_down_across_a_restart_of_the_notifier_and_the_broker(
    bus, nats_server, signer, make_receiver, fail, revocations, eventually
):
    receiver = make_receiver()
    settings = config(hook(receiver, timeout_s=0.5))
    async with notifying(bus, settings, signer):
        ids = [await fail(f"agent-{number}") for number in range(3)]
        await eventually(lambda: _as_many(revocations, 3))
    ids += [await fail(f"late-{number}") for number in range(2)]
    nats_server.kill()
    nats_server.start()
    async with notifying(bus, settings, signer):
        await receiver.start()
        await eventually(lambda: len(receiver.documents) >= 5)
    assert receiver.ids == ids


@pytest.mark.parametrize("status", [500, 503, 429, 404, 401, 304])
async def test_other_statuses_are_tried_again_in_order(bus, signer, receiver, fail, eventually, status):
    receiver.status = status
    async with notifying(bus, config(hook(receiver)), signer):
        ids = [await fail(f"agent-{number}") for number in range(3)]
        await eventually(lambda: receiver.calls >= 3)
        receiver.status = 200
        await eventually(lambda: len(receiver.documents) >= 3)
    assert receiver.ids == ids


async def test_redirect_is_not_followed(bus, signer, receiver, make_receiver, fail, eventually):
    """A receiver must not be able to send the notifier, and its token, somewhere else."""
    elsewhere = make_receiver()
    await elsewhere.start()
    receiver.status, receiver.location = 307, elsewhere.url
    async with notifying(bus, config(hook(receiver)), signer):
        await fail("a")
        await eventually(lambda: receiver.calls >= 2)
    assert elsewhere.calls == 0


async def test_slow_sink_delays_no_other(bus, signer, receiver, make_receiver, fail, eventually):
    slow, absent = make_receiver(), make_receiver()
    slow.delay_s = 30
    await slow.start()
    hooks = [hook(slow, "slow", timeout_s=3.0), hook(absent, "absent"), hook(receiver, "quick")]
    async with notifying(bus, config(*hooks), signer):
        for number in range(5):
            await fail(f"agent-{number}")
        await eventually(lambda: len(receiver.documents) >= 5)
        assert slow.documents == []


async def test_answer_that_does_not_come_is_given_up_after_the_timeout(bus, signer, receiver, fail, eventually):
    receiver.delay_s = 30
    async with notifying(bus, config(hook(receiver, timeout_s=0.2)), signer):
        await fail("a")
        await eventually(lambda: receiver.calls >= 2)
        receiver.delay_s = 0
        await eventually(lambda: receiver.documents)


async def test_new_sink_gets_what_is_revoked_from_now_on(
    bus, signer, receiver, make_receiver, fail, revocations, eventually
):
    async with notifying(bus, config(), signer):
        await fail("before")
        await eventually(lambda: _as_many(revocations, 1))
    async with notifying(bus, config(hook(receiver)), signer):
        await fail("after")
        await eventually(lambda: receiver.documents)
    assert receiver.ids == ["after:1"]


async def test_settings_of_a_sink_may_change_while_it_waits(
    bus, signer, make_receiver, receiver, fail, revocations, eventually
):
    absent = make_receiver()
    async with notifying(bus, config(hook(absent)), signer):
        await fail("a")
        await eventually(lambda: _as_many(revocations, 1))
    async with notifying(bus, config(hook(receiver, timeout_s=7.0)), signer):
        await eventually(lambda: receiver.documents)


async def test_forged_revocation_is_not_delivered(bus, signer, receiver, fail, eventually):
    """Someone who may write to the stream but has not the notifier's key."""
    forger = Signer(ed25519.Ed25519PrivateKey.generate())
    event = Event(id="forged", kind=EventKind.FAILED, agent_id="victim", at=1, standing=Standing.FAILED)
    async with notifying(bus, config(hook(receiver)), signer):
        forged = forger.sign(revocation(event, 1))
        await bus.publish_durable(subjects.revocation("victim"), forged, message_id="forged")
        await fail("a")
        await eventually(lambda: receiver.documents)
        letters = await eventually(lambda: stored.last_messages(bus, topology.DEAD.name, [subjects.DEAD]))
    assert receiver.ids == ["a:1"]
    assert decode(letters[0].data, DeadLetter).code == "signature-invalid"


async def test_key_change_loses_nothing_that_the_old_key_signed(
    bus, signer, tmp_path, make_receiver, fail, revocations, eventually
):
    receiver = make_receiver()
    async with notifying(bus, config(hook(receiver)), signer):
        await fail("old")
        await eventually(lambda: _as_many(revocations, 1))
    (tmp_path / "old.pub.pem").write_text(signer.public_pem)
    renewed = Signer.generate(tmp_path / "new.pem")
    await receiver.start()
    async with notifying(bus, config(hook(receiver), retired_keys=[tmp_path / "old.pub.pem"]), renewed):
        await fail("new")
        await eventually(lambda: len(receiver.documents) >= 2)
    assert receiver.ids == ["old:1", "new:1"]


async def test_token_is_read_for_each_delivery(bus, signer, receiver, tmp_path, fail, eventually):
    token = tmp_path / "token"
    token.write_text("first\n")
    async with notifying(bus, config(hook(receiver, token_file=token)), signer):
        await fail("a")
        await eventually(lambda: len(receiver.headers) == 1)
        token.write_text("second\n")
        await fail("b")
        await eventually(lambda: len(receiver.headers) == 2)
    assert [headers["Authorization"] for headers in receiver.headers] == ["Bearer first", "Bearer second"]


class Authority:
    """A CA of the test, and certificates that it issues."""

    def __init__(self, directory) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
        self.file = directory / "ca.pem"
        own = self._build(self._name, self._key.public_key(), ca=True)
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject, public, *, ca):
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self.directory / f"{name}.crt"
        certificate.write_bytes(self._build(subject, key.public_key(), ca=False).public_bytes(serialization.Encoding.PEM))
        private = self.directory / f"{name}.key"
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate, private


async def test_mutual_tls(bus, signer, make_receiver, tmp_path, fail, eventually):
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    receiver = make_receiver(context)
    await receiver.start()
    certificate, key = authority.issue("notifier")
    async with notifying(
        bus, config(hook(receiver, ca_file=authority.file, client_cert=certificate, client_key=key)), signer
    ):
        await fail("a")
        await eventually(lambda: receiver.documents)
    assert receiver.ids == ["a:1"]


async def test_receiver_that_no_trusted_ca_vouches_for_gets_nothing(
    bus, signer, make_receiver, receiver, tmp_path, fail, eventually, caplog
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path).issue("receiver"))
    imposter = make_receiver(context)
    await imposter.start()
    async with notifying(bus, config(hook(imposter, "imposter")), signer):
        await fail("a")
        await eventually(lambda: "sink imposter: revocation a:1 not delivered (attempt 2)" in caplog.text)
    assert imposter.calls == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"token_file": "absent"},
        {"token_file": "empty"},
        {"token_file": "two-lines"},
        {"ca_file": "absent"},
        {"ca_file": "empty"},
        {"client_cert": "empty"},
    ],
)
async def test_files_that_can_not_be_used_stop_the_start(bus, signer, receiver, tmp_path, changes):
    (tmp_path / "empty").write_text("")
    (tmp_path / "two-lines").write_text("a\nb")
    paths = {name: tmp_path / value for name, value in changes.items()}
    with pytest.raises(ConfigError):
        async with notifying(bus, config(hook(receiver, **paths)), signer):
            pass


async def test_token_over_plain_http_to_another_host_is_refused(bus, signer, tmp_path):
    (tmp_path / "token").write_text("t")
    webhook = Webhook(name="w", url="http://siem.example/hook", token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match="plain http"):
        async with notifying(bus, config(webhook), signer):
            pass


async def test_two_webhooks_of_one_name_are_refused(bus, signer, receiver):
    with pytest.raises(ConfigError, match="same name"):
        async with notifying(bus, config(hook(receiver), hook(receiver)), signer):
            pass


@given(st.integers(0, 10_000), st.floats(0.001, 1000))
def test_delay_grows_and_is_bounded(deliveries, base):
    assert 0 < delay_s(deliveries, base) <= LONGEST_DELAY_S
    assert delay_s(deliveries, base, max) >= delay_s(deliveries - 1, base, max)
    assert delay_s(deliveries, base, min) == delay_s(deliveries, base, max) / 2
