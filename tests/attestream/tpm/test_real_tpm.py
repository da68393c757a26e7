"""The same functions against swtpm (libtpms, the TCG's reference code), driven by tpm2-tools."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestream.errors import SignatureError
from attestream.tpm.certification import build_certification, parse_certification, verify_certification
from attestream.tpm.credential import make_credential
from attestream.tpm.names import ENDORSEMENT, qualified_name
from attestream.tpm.public import check_attestation_key, check_endorsement_key, parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from devtools.swtpm import Swtpm, missing_tools

pytestmark = pytest.mark.skipif(
    bool(missing_tools()) or shutil.which("tpm2_quote") is None,
    reason="needs the packages swtpm, swtpm-tools and tpm2-tools",
)


class Tools:
    """Runs tpm2-tools in one directory against one TPM."""

    def __init__(self, directory: Path, tcti: str) -> None:
        self.directory = directory
        self._environment = {**os.environ, "TPM2TOOLS_TCTI": tcti, "TSS2_LOG": "all+none"}

    def run(self, command: str, *, flush: str = "-t") -> None:
        for line in (f"tpm2_{command}", f"tpm2_flushcontext {flush}"):
            subprocess.run(
                line.split(), cwd=self.directory, env=self._environment, check=True, capture_output=True, timeout=30
            )

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    directory = tmp_path_factory.mktemp("tpm")
    with Swtpm.launch(directory / "state", certificates=False) as tpm:
        yield Tools(directory, tpm.tcti)


KEYS = [
    ("rsa", "rsa", "rsassa", "sha256"),
    ("rsa", "rsa", "rsapss", "sha256"),
    ("ecc", "ecc", "ecdsa", "sha256"),
    ("ecc", "ecc384", "ecdsa", "sha384"),
]


@pytest.mark.parametrize(("ek", "ak", "scheme", "name"), KEYS)
def test_a_tpm_opens_our_credential_and_we_verify_its_quote(tools: Tools, ek: str, ak: str, scheme: str, name: str) -> None:
    tools.run(f"createek -G {ek} -c ek.ctx -u ek.pub")
    tools.run(f"createak -C ek.ctx -c ak.ctx -G {ak} -g {name} -s {scheme} -u ak.pub -n ak.name")
    ek_public, ak_public = parse_public(tools.read("ek.pub")), parse_public(tools.read("ak.pub"))
    check_endorsement_key(ek_public)
    check_attestation_key(ak_public)
    assert ak_public.name == tools.read("ak.name")

    secret = secrets.token_bytes(32)
    blob = b"".join(make_credential(ek_public, ak_public.name, secret))
    (tools.directory / "credential").write_bytes(bytes.fromhex("badcc0de00000001") + blob)
    tools.run("startauthsession --policy-session -S session.ctx")
    tools.run("policysecret -S session.ctx -c e")
    tools.run("activatecredential -c ak.ctx -C ek.ctx -i credential -o secret -P session:session.ctx")
    tools.run("flushcontext session.ctx")
    assert tools.read("secret") == secret

    tools.run(f"pcrextend 10:sha1={'11' * 20},sha256={'22' * 32}")
    tools.run(
        f"quote -c ak.ctx -l sha256:0,10+sha1:10 -q {b'nonce'.hex()} -m quote -s signature -g {name} --scheme {scheme}"
    )
    quote = verify_quote_signature(ak_public, tools.read("quote"), tools.read("signature"))
    assert quote.extra_data == b"nonce"
    assert quote.selection == (("sha256", (0, 10)), ("sha1", (10,)))
    assert quote.clock.safe
    above = qualified_name(ENDORSEMENT.to_bytes(4, "big"), ek_public.name)
    assert quote.signer == qualified_name(above, ak_public.name)
    tools.run("pcrread sha256:0,10+sha1:10 -o pcrs")
    raw = tools.read("pcrs")
    values = {"sha256": {0: raw[:32], 10: raw[32:64]}, "sha1": {10: raw[64:]}}
    assert pcr_digest(name, quote.selection, values) == quote.pcr_digest
    with pytest.raises(SignatureError):
        verify_quote_signature(ak_public, tools.read("quote").replace(b"nonce", b"nancy"), tools.read("signature"))


def test_a_tpm_certifies_one_key_by_another(tools: Tools) -> None:
    tools.run("createek -G ecc -c ek.ctx -u ek.pub")
    for key in ("iak", "ak"):
        tools.run(f"createak -C ek.ctx -c {key}.ctx -G ecc -g sha256 -s ecdsa -u {key}.pub -n {key}.name")
    tools.run("certify -c ak.ctx -C iak.ctx -g sha256 -o attest -s signature")
    iak, ak = parse_public(tools.read("iak.pub")), parse_public(tools.read("ak.pub"))
    attest, signature = tools.read("attest"), tools.read("signature")

    extra_data = parse_certification(attest).extra_data
    found = verify_certification(iak, attest, signature, name=ak.name, extra_data=extra_data)

    assert build_certification(found) == attest
    above = qualified_name(ENDORSEMENT.to_bytes(4, "big"), parse_public(tools.read("ek.pub")).name)
    assert (found.signer, found.qualified_name) == (qualified_name(above, iak.name), qualified_name(above, ak.name))
    with pytest.raises(SignatureError):
        verify_certification(ak, attest, signature, name=ak.name, extra_data=extra_data)
