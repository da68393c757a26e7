"""The evidence that both verifiers get is that of one machine."""

import base64

from attestream.interop.pcr_blob import parse_pcr_blob
from attestream.tpm.public import parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from bench.samples import BINDING_PCR
from bench.side.attester import FIRMWARE_PCR, FIRST_ENTRIES, INTRUDER, firmware_value, make_attesters


def test_incumbent_gets_quote_over_its_nonce_and_values_of_the_same_tpm():
    [machine] = make_attesters(1, "p256", files=True)
    found = machine.incumbent_quote("nonce", 1 << 10 | 1 << BINDING_PCR, 0)
    attest, signature, blob = (base64.b64decode(part) for part in found["quote"].removeprefix("r").split(":"))
    quote = verify_quote_signature(parse_public(machine.tpm.ak_public), attest, signature)
    assert quote.extra_data == b"nonce"
    claimed = parse_pcr_blob(blob)
    assert claimed.values["sha256"][10] == machine.tpm.pcr("sha256", 10)
    assert pcr_digest("sha256", claimed.selection, claimed.values) == quote.pcr_digest
    assert len(found["ima_measurement_list"].splitlines()) == FIRST_ENTRIES


def test_log_goes_on_where_the_incumbent_stopped():
    [machine] = make_attesters(1, "p256", files=True)
    machine.run_programs(2)
    found = machine.incumbent_quote("nonce", 1 << 10, FIRST_ENTRIES)
    assert found["ima_measurement_list_entry"] == FIRST_ENTRIES
    assert len(found["ima_measurement_list"].splitlines()) == 2


def test_misbehaving_shows_in_what_the_policy_is_about():
    [logged] = make_attesters(1, "p256", files=True)
    logged.misbehave()
    assert logged.log[-1].ascii.endswith(INTRUDER)
    [bare] = make_attesters(1, "p256", files=False)
    assert bare.tpm.pcr("sha256", FIRMWARE_PCR) == firmware_value()
    bare.misbehave()
    assert bare.tpm.pcr("sha256", FIRMWARE_PCR) != firmware_value()
    assert not bare.log
