"""An EK certificate that swtpm_localca makes, read from the NV memory of a running swtpm."""

import time

from tpm2_pytss import ESAPI

from attestream.pki.endorsement import judge_endorsement
from attestream.pki.profile import STRICT
from attestream.pki.trust_store import TrustStore, read_certificates
from devtools.swtpm import Swtpm
from services.agent.tpm_nv import ek_certificates


def test_certificate_stands_up_to_the_strict_profile(tmp_path):
    with Swtpm.launch(tmp_path / "state") as swtpm:
        issuer, root = (read_certificates(path.read_bytes())[0] for path in swtpm.ca_certificates)
        with ESAPI(swtpm.tcti) as tpm:
            chain = ek_certificates(tpm, "rsa2048")
    now = time.time_ns() // 1_000_000
    judged = judge_endorsement([*chain, issuer.der], TrustStore([root]), profile=STRICT, now=now)
    assert judged.findings() == []
    assert judged.trusted
    assert not judge_endorsement(chain, TrustStore([root]), profile=STRICT, now=now).trusted
