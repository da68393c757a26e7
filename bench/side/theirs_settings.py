"""Settings of the incumbent: its documented defaults, written down because its wheel has no file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_BOTH: Final = {
    "version": "2.6",
    "ip": '"127.0.0.1"',
    "server_key": "default",
    "server_key_password": "",
    "server_cert": "default",
    "cert_subject_alternative_names": "",
    "trusted_client_ca": "default",
    "authorization_provider": "simple",
    "database_url": "sqlite",
    "database_pool_sz_ovfl": "5,10",
    "auto_migrate_db": "True",
    "durable_attestation_import": "",
    "persistent_store_url": "",
    "transparency_log_url": "",
    "time_stamp_authority_url": "",
    "time_stamp_authority_certs_path": "",
    "persistent_store_format": "json",
    "persistent_store_encoding": "",
    "transparency_log_sign_algo": "sha256",
}
_VERIFIER: Final = _BOTH | {
    "uuid": "default",
    "registrar_ip": "127.0.0.1",
    "enable_agent_mtls": "True",
    "tls_dir": "generate",
    "client_key": "default",
    "client_key_password": "",
    "client_cert": "default",
    "trusted_server_ca": "default",
    "num_workers": "0",
    "exponential_backoff": "True",
    "retry_interval": "2",
    "max_retries": "5",
    "max_upload_size": "104857600",
    "request_timeout": "60.0",
    "measured_boot_policy_name": "accept-all",
    "measured_boot_imports": "[]",
    "measured_boot_evaluate": "once",
    "severity_labels": '["info", "notice", "warning", "error", "critical", "alert", "emergency"]',
    "severity_policy": '[{"event_id": ".*", "severity_label": "emergency"}]',
    "ignore_tomtou_errors": "False",
    "signed_attributes": "",
    "require_allow_list_signatures": "False",
    "mode": "pull",
    "shutdown_drain_timeout": "10",
}
_REGISTRAR: Final = _BOTH | {
    "tls_dir": "default",
    "signed_attributes": "ek_tpm,aik_tpm,ekcert",
    "tpm_identity": "default",
    "malformed_cert_action": "warn",
}
_CA: Final = {
    "version": "2.6",
    "password": "default",
    "cert_country": "US",
    "cert_ca_name": "Keylime Certificate Authority",
    "cert_state": "MA",
    "cert_locality": "Lexington",
    "cert_organization": "Keylime",
    "cert_org_unit": "53",
    "cert_ca_lifetime": "3650",
    "cert_lifetime": "365",
    "cert_bits": "2048",
    "cert_crl_dist": "http://localhost:38080/crl",
}
_LOGGING: Final = """\
[logging]
version = 2.6
[loggers]
keys = root,keylime
[handlers]
keys = consoleHandler
[formatters]
keys = formatter
[formatter_formatter]
format = %(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s
datefmt = %Y-%m-%d %H:%M:%S
[logger_root]
level = INFO
handlers = consoleHandler
[handler_consoleHandler]
class = StreamHandler
level = INFO
formatter = formatter
args = (sys.stdout,)
[logger_keylime]
level = INFO
qualname = keylime
handlers =
"""


def write_settings(
    directory: Path, ports: tuple[int, int, int], *, workers: int, interval_s: float, webhook: str
) -> dict[str, str]:
    """Write its configuration files and return the environment that names them.

    ``ports``: verifier, registrar, registrar's TLS. ``webhook``: where revocations go; nowhere if empty.
    """
    shared = {"max_workers": str(workers)}
    verifier = _VERIFIER | shared
    verifier |= {"port": str(ports[0]), "registrar_port": str(ports[2]), "quote_interval": f"{interval_s:g}"}
    registrar = _REGISTRAR | shared | {"port": str(ports[1]), "tls_port": str(ports[2])}
    revocations = {
        "enabled_revocation_notifications": "['webhook']" if webhook else "[]",
        "zmq_ip": "127.0.0.1",
        "zmq_port": "8992",
        "webhook_url": webhook,
    }
    texts = {
        "verifier": _section("verifier", verifier) + _section("revocations", revocations),
        "registrar": _section("registrar", registrar),
        "tenant": _section("tenant", {"version": "2.6"}),
        "ca": _section("ca", _CA),
        "logging": _LOGGING,
    }
    environment = {}
    for name, text in texts.items():
        file = directory / f"{name}.conf"
        file.write_text(text, encoding="ascii")
        environment[f"KEYLIME_{name.upper()}_CONFIG"] = str(file)
    return environment


def _section(name: str, values: dict[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
