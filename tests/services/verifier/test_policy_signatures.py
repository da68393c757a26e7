"""An installation that takes signed policies only: what a worker does with what is pushed."""

import json
import uuid

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestream.bus import keyvalue, objects
from attestream.clock import unix_ms
from attestream.errors import ConfigError
from attestream.interop.policy_signature import PAYLOAD_TYPE
from attestream.reference.envelope import key_fingerprint, sign_envelope
from devtools.pool import allowing
from schemas import topology
from schemas.base import decode
from schemas.commands import PolicyRecord, PublishPolicy
from services.verifier.journal import Order
from services.verifier.policies import Policies
from services.verifier.policy_signatures import load_policy_keys

KEYS = [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())]
STRANGER = ed25519.Ed25519PrivateKey.generate()
ONE, TWO = (json.dumps(allowing("boot_aggregate", *paths)).encode() for paths in ((), ("/usr/bin/ls",)))


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def settings(settings, tmp_path):
    files = [tmp_path / f"signer-{number}.pub" for number in range(len(KEYS))]
    for file, key in zip(files, KEYS, strict=True):
        file.write_bytes(public_pem(key))
    return msgspec.structs.replace(settings, policy_keys=files)


async def push(tenant, document, envelope=b""):
    stored = [await objects.put(tenant.bus, topology.POLICIES, data) if data else "" for data in (document, envelope)]
    command = PublishPolicy(command_id=uuid.uuid4().hex, name="web", digest=stored[0], envelope=stored[1])
    return await tenant.command("web", command)


async def record(bus, version):
    entry = await keyvalue.get(bus, topology.CLUSTER.name, topology.policy_key("web", version))
    return decode(entry.value, PolicyRecord)


async def test_only_what_a_named_key_has_signed_is_published(pool, tenant):
    await pool.start("one")
    refused = await push(tenant, ONE)
    assert (refused.ok, refused.code) == (False, "signature-invalid")
    assert key_fingerprint(KEYS[0].public_key())[:16] in refused.message
    assert "policy sign" in refused.remedy
    assert (await push(tenant, ONE, sign_envelope(ONE, STRANGER))).code == "signature-invalid"
    altered = sign_envelope(ONE, KEYS[0]).replace(b'"sig": "', b'"sig": "AAAA')
    assert (await push(tenant, ONE, altered)).code == "signature-invalid"
    for number, key in enumerate(KEYS, 1):
        document = (ONE, TWO)[number - 1]
        envelope = sign_envelope(document, key)
        assert (await push(tenant, document, envelope)).detail == f"web@{number}"
        made = await record(tenant.bus, number)
        assert made.signed_by == key_fingerprint(key.public_key())
        assert await objects.get(tenant.bus, topology.POLICIES, made.envelope) == envelope


@pytest.mark.parametrize(
    "envelope",
    [b"no envelope", sign_envelope(TWO, KEYS[0]), sign_envelope(ONE, KEYS[0], payload_type=PAYLOAD_TYPE)],
    ids=["malformed", "of another document", "of another type"],
)
async def test_an_envelope_is_for_its_own_document(pool, tenant, envelope):
    """Who has one signed policy could otherwise publish any other under its signature."""
    await pool.start("one")
    assert (await push(tenant, ONE, envelope)).code == "policy-invalid"
    assert (await push(tenant, ONE, sign_envelope(ONE, KEYS[0]))).detail == "web@1"


async def test_what_was_published_unsigned_is_published_again_once_it_is_signed(bus, pool, tenant):
    open_ = Policies(bus, unix_ms)
    command = PublishPolicy(command_id="c", name="web", digest=await objects.put(bus, topology.POLICIES, ONE))
    assert (await open_.publish(command, Order(id="c", at=0, actor="", key_id=""))).signed_by == ""
    await pool.start("one")
    for _ in range(2):
        assert (await push(tenant, ONE, sign_envelope(ONE, KEYS[0]))).detail == "web@2"
    assert (await record(bus, 1)).signed_by == ""
    assert (await open_.find("web"))[0] == "web@2"


async def test_where_no_key_is_named_nobody_is_said_to_have_signed(bus):
    policies = Policies(bus, unix_ms)
    digest, envelope = [await objects.put(bus, topology.POLICIES, data) for data in (ONE, sign_envelope(ONE, STRANGER))]
    command = PublishPolicy(command_id="c", name="web", digest=digest, envelope=envelope)
    made = await policies.publish(command, Order(id="c", at=0, actor="", key_id=""))
    assert (made.envelope, made.signed_by) == (envelope, "")


def test_a_worker_does_not_start_with_keys_that_it_can_not_use(tmp_path):
    with pytest.raises(ConfigError, match="can not be read"):
        load_policy_keys([tmp_path / "none"])
    for name, data in (("odd", b"no key"), ("rsa", public_pem(rsa.generate_private_key(65537, 2048)))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=f"policy_keys: .*{name}"):
            load_policy_keys([tmp_path / name])
