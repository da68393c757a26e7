"""The configuration file that an installation begins with, and what takes its security away for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

INSECURE: Final = {
    "ATTESTREAM_BUS_CREDENTIALS": "",
    "ATTESTREAM_BUS_CA_FILE": "",
    "ATTESTREAM_TRUST_UNSIGNED": "true",
    "ATTESTREAM_REGISTRAR_AGENT_ISSUER_FILE": "",
    "ATTESTREAM_REGISTRAR_OPERATOR_KEY_FILE": "",
    "ATTESTREAM_REGISTRAR_SYSTEM_CREDENTIALS": "",
    "ATTESTREAM_REGISTRAR_AGENT_ACCOUNT_FILE": "",
}
"""Environment of services on a bus that asks nobody who they are; only for tests."""


def configuration(urls: Sequence[str], *, accept_ek: str, manufacturers: Sequence[str] = (), store: str = "") -> str:
    """Return the text of the file.

    :param urls: those of the bus.
    :param manufacturers: of TPMs, whose CA certificates as they come with Attestream count.
    :param store: the bus's directory when it is on this machine.
    """
    encrypted = any(url.startswith(("tls://", "wss://")) for url in urls)
    return _TEMPLATE.format(
        urls=json.dumps(list(urls)),
        ca_file='ca_file = "tls/ca.pem"' if encrypted else _NO_CA,
        accept_ek=accept_ek,
        manufacturers=json.dumps(list(manufacturers)),
        limits=f"store_dir = {json.dumps(store)}" if store else _NO_STORE,
    )


_NO_STORE: Final = '# On a machine of nats-server: its directory, whose disk is then watched.\n# store_dir = "bus"'
_NO_CA: Final = '# Not needed on this machine alone; wherever the bus is reached over a network:\n# ca_file = "tls/ca.pem"'

_TEMPLATE: Final = """\
# Configuration of this Attestream installation. Paths are relative to this file.
# Every setting and its default is described in docs/configuration.md.
# A variable ATTESTREAM_<SECTION>_<KEY> overrides the setting of that section and key.

[bus]
urls = {urls}
# One file for each service. A machine that runs one service needs that one file.
credentials = "credentials"
{ca_file}

[trust]
root_keys = ["trusted/root.pem"]
roster_file = "trusted/roster"

[log]
level = "info"

[registrar]
database_url = "sqlite:///registrar.db"
# "certificate": only TPMs whose endorsement key has a certificate by a CA in ek_store or of ek_manufacturers may enrol.
# "any": every TPM may, and nothing shows that it is a real one.
accept_ek = "{accept_ek}"
ek_store = "ek-store"
# Manufacturers whose CA certificates, as they come with Attestream, vouch for TPMs: such as ["infineon", "nuvoton"], or
# ["all"]. `attestream certificates manufacturers` lists them.
ek_manufacturers = {manufacturers}
signing_key_file = "keys/registrar.pem"
agent_issuer_file = "bus-keys/issuers/agent.seed"
agent_account_file = "bus-keys/accounts/agent.jwt"
operator_key_file = "bus-keys/operator-signing.seed"
system_credentials = "credentials/system.creds"

[verifier]
database_url = "sqlite:///verifier.db"
cluster_secret_file = "keys/cluster.secret"
signing_key_file = "keys/verifier.pem"

[notifier]
signing_key_file = "keys/revocation.pem"

[limits]
{limits}

# [[notifier.webhooks]]
# name = "siem"
# url = "https://siem.example/attestream"
"""
