"""The configuration of every service and of the command line: one TOML file and the environment.

Each section of the file is one structure below; a setting's default is the field's default. A section may be left out.
``ATTESTREAM_<SECTION>_<KEY>`` (``ATTESTREAM_VERIFIER_LEASE_FLOOR_S=60``) overrides a setting: text is taken as it is, any
other value is written as in TOML, and a list of texts may also be given with commas. Empty text takes away a file that has a
default. Relative paths, also those in ``sqlite:///`` URLs, are relative to the directory of the file, or to the working
directory when there is none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from attestream.bus.connection import BusSettings

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Mebibytes = Annotated[int, Meta(ge=1, le=1 << 30)]
PersistentHandle = Annotated[str, Meta(pattern=r"^(0x81[0-9a-fA-F]{6})?\Z")]
Milliseconds = Annotated[int, Meta(ge=1, le=31_536_000_000)]
Days = Annotated[int, Meta(ge=0, le=36_500)]

ROSTER_MAX_AGE_S = 3_600
"""Seconds for which a roster counts by default after a registrar has last vouched for it."""


LEAST_RECORD_DAYS = 7
"""A notifier, an agent or a subscriber may be away for that long and miss nothing."""


class DatabaseUrl(str):
    """``sqlite:///FILE``, ``postgresql://USER:PASSWORD@HOST/NAME`` or ``mariadb://USER:PASSWORD@HOST/NAME``."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the URL without its password: a configuration may be logged."""
        hidden = re.sub(r"(//[^:/?]*):.*@", r"\1:***@", self)
        return repr(re.sub(r"(?i)([?&](?:password|passwd)=)[^&]*", r"\1***", hidden))


class Section(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A section of the file."""


class BusConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[bus]``: how to reach NATS."""

    urls: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    """Servers of one cluster (``nats://``, ``tls://``, or ``ws://`` and ``wss://`` for WebSocket); default the local one."""
    credentials: Path | None = None
    """File with the credentials of this process, readable by its user alone; or a directory with one such file for each
    service, ``registrar.creds`` and so on; no default."""
    ca_file: Path | None = None
    """PEM file of the CAs that may vouch for the servers; once it is set, nothing is sent without TLS; default: those of the
    system."""
    client_cert: Path | None = None
    """PEM file of the certificate that is shown to servers that ask for one; no default."""
    client_key: Path | None = None
    """PEM file of that certificate's key; no default."""
    connect_timeout_s: Seconds = 5.0
    """Seconds after which a server that does not answer counts as unreachable; default 5."""
    reconnect_spread_s: Seconds = 2.0
    """Seconds over which the clients of a lost server spread their return; default 2."""

    def settings(self, name: str) -> BusSettings:
        """Return the settings with which a client called ``name`` connects."""
        # A command line that only prints help need not load NATS.
        from attestream.bus.connection import BusSettings
        from attestream.bus.encryption import Encryption

        return BusSettings(
            urls=self.urls,
            name=name,
            credentials=_for_service(self.credentials, name),
            encryption=Encryption(ca_file=self.ca_file, client_cert=self.client_cert, client_key=self.client_key),
            connect_timeout_s=self.connect_timeout_s,
            reconnect_spread_s=self.reconnect_spread_s,
        )


class TrustConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[trust]``: whose signatures are believed (docs/security/signatures.md)."""

    root_keys: list[Path] = []
    """PEM files of the public keys that may sign the roster of keys: all that a process has to be told; default none."""
    roster_file: Path | None = None
    """Where the newest roster that was seen is kept, so that an older one is refused after a restart too; no default."""
    installation: str = ""
    """Id that the roster must have; empty (default): whichever installation the root keys have signed."""
    roster_max_age_s: Annotated[int, Meta(ge=0, le=31_536_000)] = ROSTER_MAX_AGE_S
    """Seconds for which the roster counts after a registrar has last said that it is the newest; from then on nobody is
    believed except about revocations. From 600, or 0 for ever; default 3600."""
    unsigned: bool = False
    """Whether nothing is signed and nothing checked, so that whoever reaches the bus is believed; only for tests; default
    false."""


class LogConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[log]``: the log of services, one line per record on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written; default ``info``."""
    format: Literal["text", "json"] = "text"
    """``text`` for people or ``json``, one document per line; default ``text``."""


class RegistrarConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[registrar]``: enrolment."""

    database_url: DatabaseUrl = DatabaseUrl("sqlite:///registrar.db")
    """Where enrolments are kept; default SQLite beside the configuration file."""
    database_password_file: Path | None = None
    """File with the password of the database, so that the URL need not hold it; no default."""
    database_connections: Annotated[int, Meta(ge=1, le=1_000)] = 5
    """Most connections to the database, per process; default 5."""
    database_timeout_s: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    """Seconds after which a statement is given up; default 30."""
    accept_ek: Literal["any", "warn", "certificate", "hook"] = "certificate"
    """Which endorsement keys are accepted: ``certificate``, those with a certificate that chains to ``ek_store`` or
    ``ek_manufacturers``, or whose TPM has a device identity that chains to ``iak_store``; ``warn``, all, and the enrolment
    tells what is wrong; ``hook``, those that ``ek_hook`` accepts; ``any``, all unjudged; default ``certificate``."""
    ek_store: Path | None = None
    """Directory of TPM makers' CA certificates (PEM or DER); no default."""
    ek_manufacturers: list[str] = []
    """TPM manufacturers whose CA certificates, as they come with Attestream, count beside those in ``ek_store``, such as
    ``infineon``; ``all`` for every one; default none."""
    ek_distrust: list[str] = []
    """SHA-256 fingerprints, in hex, of certificates in ``ek_store`` or of those that come with Attestream, or of public keys
    (SubjectPublicKeyInfo): no EK counts whose path needs one of these keys; default none."""
    ek_profile: Literal["permissive", "strict"] = "permissive"
    """How certificates are judged: ``strict``, as the TCG profile says, or ``permissive``, with warnings for what makers
    often neglect; default ``permissive``."""
    malformed_certificate: Literal["reject", "warn"] = "reject"
    """What is done about certificates that break DER, as those of some Nuvoton TPMs; default ``reject``."""
    iak_store: Path | None = None
    """Directory of the CA certificates that vouch for device identities (IAK and IDevID); none (default): device identities
    are passed over."""
    iak_policy: Literal["require", "warn"] = "require"
    """What is done about IAK certificates that do not say that the key is restricted (policy 2.23.133.11.1.3): with ``warn``
    they count, and whoever holds an IDevID of the same CA can stand in an IAK's place; default ``require``."""
    ek_hook: list[str] = []
    """Command and arguments that decide for ``accept_ek = "hook"``: facts as JSON on standard input, status 0 accepts;
    default none."""
    ek_hook_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Seconds after which a hook that has not answered is killed and counts as a refusal; default 10."""
    signing_key_file: Path | None = None
    """PEM file of the private key that signs the registrar's events and answers; no default."""
    challenge_lifetime_s: Seconds = 60.0
    """Seconds in which an agent must prove an enrolment challenge; default 60."""
    agent_issuer_file: Path | None = None
    """Seed of the NKey that signs agents' identities on the bus; none (default): they are given none."""
    operator_key_file: Path | None = None
    """Seed of the bus operator's signing key, with which revoked identities are told to the servers; no default."""
    system_credentials: Path | None = None
    """Credentials of the bus's own account, over which they are told; no default."""
    agent_account_file: Path | None = None
    """Token of the bus account that agents live in; no default."""
    identity_lifetime_s: Annotated[int, Meta(ge=10, le=2_592_000)] = 3_600
    """Seconds that an agent's identity holds; it renews it when two thirds are over; default 3600."""


class VerifierConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[verifier]``: a worker of the verifier."""

    database_url: DatabaseUrl = DatabaseUrl("sqlite:///verifier.db")
    """Where agents and their state are kept, common to all workers; default SQLite beside the configuration file."""
    database_password_file: Path | None = None
    """File with the password of the database, so that the URL need not hold it; no default."""
    database_connections: Annotated[int, Meta(ge=1, le=1_000)] = 5
    """Most connections to the database, per process; default 5."""
    database_timeout_s: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    """Seconds after which a statement is given up; default 30."""
    cluster_secret_file: Path = Path("keys/cluster.secret")
    """File with 32 or more random bytes that nonces are made from, the same for all workers; default
    ``keys/cluster.secret``. Beside it, with ``.before`` after its name, may be the one that it has followed."""
    signing_key_file: Path | None = None
    """PEM file of the private key that signs events, results and answers, one for all workers or one each; no default."""
    challenges_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 500
    """Most challenges that wait for an answer at one time, per worker; default 500."""
    challenge_timeout_ms: Milliseconds = 5_000
    """Milliseconds after which a challenge counts as missed; default 5000."""
    missed_before_unreachable: Annotated[int, Meta(ge=1, le=1_000)] = 3
    """Missed challenges in a row after which an agent is unreachable; default 3."""
    lease_floor_s: Seconds = 30.0
    """Shortest life of a result in seconds; an agent's own lease can not be shorter; default 30."""
    lease_stretch: Annotated[float, Meta(ge=1, le=100)] = 4.0
    """How many times as long as an agent's lease a result may live while an overloaded worker asks less often; 1: never
    longer; default 4."""
    flush_ms: Milliseconds = 250
    """Milliseconds over which changes are gathered before they are written to the database; default 250."""
    worker_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}\Z")] = ""
    """Name of this worker, unique among those alive; empty (default): a random one."""
    partition_lease_s: Annotated[int, Meta(ge=1, le=60)] = 2
    """Seconds after which the partitions of a silent worker pass to others; default 2."""
    boot_policy_modules: list[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}\Z")]] = []
    """Python modules with boot policies of your own; default none."""
    policy_keys: list[Path] = []
    """PEM files of public keys (Ed25519 or ECDSA) of which one must have signed a policy that is pushed, the same for all
    workers; none (default): policies need not be signed."""


class Webhook(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[notifier.webhooks]]``: a receiver of revocations."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    """Unique and stable: the receiver's place in the stream is kept under it."""
    url: Annotated[str, Meta(pattern=r"^https?://")]
    """Where revocations are posted."""
    ca_file: Path | None = None
    """PEM file of the CAs that may vouch for the receiver; default: those of the system."""
    client_cert: Path | None = None
    """PEM file of the certificate that the notifier shows; no default."""
    client_key: Path | None = None
    """PEM file of that certificate's key; no default."""
    token_file: Path | None = None
    """File with a bearer token; no default."""
    timeout_s: Seconds = 10.0
    """Seconds that the receiver has to answer; default 10."""


class NotifierConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[notifier]``: signs and delivers revocations."""

    signing_key_file: Path = Path("keys/revocation.pem")
    """PEM file of the private key that signs revocations; default ``keys/revocation.pem``."""
    retired_keys: list[Path] = []
    """PEM files of public keys that signed before this one: what they signed is still delivered; default none."""
    webhooks: list[Webhook] = []
    """Receivers; default none."""
    retry_base_s: Seconds = 1.0
    """Seconds before the first repetition of a failed delivery; each further wait is longer; default 1."""


class AgentConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[agent]``: the agent of one machine."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,80}\Z")] = ""
    """The agent's id; empty (default): one is made at the first start and kept in ``data_dir``."""
    enrolment_credentials: Path | None = None
    """Credentials with which the agent asks to be enrolled; its own identity is issued to it then. None (default): the bus
    asks nobody who they are."""
    identity_key: Literal["tpm", "file"] = "tpm"
    """Where the key of its identity is kept: sealed by the TPM, or in a file of mode 0600; default ``tpm``."""
    tcti: str = "device:/dev/tpmrm0"
    """How the TPM is reached, in the words of ``tpm2-tss``; default the kernel's resource manager."""
    data_dir: Path = Path("agent")
    """Directory of the agent's keys and state; default ``agent``."""
    ek: Literal["rsa2048", "p256"] = "rsa2048"
    """Kind of endorsement key; default ``rsa2048``."""
    ak: Literal["rsa2048", "p256"] = "rsa2048"
    """Kind of attestation key; default ``rsa2048``."""
    ak_scheme: Literal["", "rsassa", "rsapss", "ecdsa"] = ""
    """Signing scheme of the attestation key; empty (default): RSASSA or ECDSA, whichever fits the key."""
    device_identity: Literal["off", "auto", "required"] = "auto"
    """Whether the maker's device identity (IAK, IDevID) is shown at enrolment: ``auto``, when the TPM has one; ``required``,
    the agent ends without one; ``off``, never; default ``auto``."""
    iak_certificate: Path | None = None
    """PEM or DER file of the IAK's certificate, in PEM with its intermediates; none (default): the TPM's NV memory."""
    iak_handle: PersistentHandle = ""
    """Persistent handle of the IAK, as in ``0x81020001``; empty (default): it is looked for at the handles of device
    identities, then derived from the templates of the TCG."""
    iak_password_file: Path | None = None
    """File with the password of the IAK; none (default): it has none."""
    idevid_certificate: Path | None = None
    """As ``iak_certificate``, of the IDevID; none (default): the TPM's NV memory."""
    idevid_handle: PersistentHandle = ""
    """As ``iak_handle``, of the IDevID; empty (default): it is looked for or derived."""
    ima_log: Path | None = Path("/sys/kernel/security/ima/binary_runtime_measurements")
    """The kernel's IMA log; default where securityfs has it."""
    ima_log_format: Literal["binary", "ascii"] = "binary"
    """Form of ``ima_log``; default ``binary``."""
    boot_log: Path | None = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
    """The firmware's event log; default where securityfs has it."""
    revocation_keys: list[Path] = []
    """PEM files of the public keys whose revocations are believed; default none."""
    revocation_hook: list[str] = []
    """Command and arguments that a verified revocation is handed to, as JSON on standard input; default none."""
    poll_ms: Milliseconds = 50
    """Milliseconds between two looks at the IMA log; default 50."""


class LimitsConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: what streams may hold, how much one agent may ask for, and when an alarm is raised (docs/limits.md)."""

    evidence_mib: Mebibytes = 2_048
    """MiB of evidence that wait for verifiers; default 2048."""
    commands_mib: Mebibytes = 128
    """MiB of commands that wait for verifiers; default 128."""
    events_mib: Mebibytes = 4_096
    """MiB of the record; default 4096."""
    revocations_mib: Mebibytes = 512
    """MiB of revocations; default 512."""
    dead_mib: Mebibytes = 256
    """MiB of messages that could not be processed; the oldest make room; default 256."""
    archive_mib: Mebibytes = 896
    """MiB of kept evidence; the oldest makes room; default 896."""
    archive_index_mib: Mebibytes = 128
    """MiB of the index of kept evidence and of kept IMA logs; the oldest make room; default 128."""
    enrolments_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 1_000.0
    """Enrolment requests per second that a registrar takes from everybody, on average; default 1000."""
    enrolments_per_agent_min: Annotated[float, Meta(gt=0, le=100_000)] = 12.0
    """Enrolment requests per minute that a registrar takes from one machine, on average; default 12."""
    enrolments_waiting: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """Requests that wait in a registrar for their turn; more are refused at once; default 1000."""
    evidence_per_agent_s: Annotated[float, Meta(gt=0, le=100_000)] = 30.0
    """Messages per second that a verifier takes from one agent's evidence, on average; default 30."""
    warnings_per_agent_h: Annotated[int, Meta(ge=1, le=100_000)] = 60
    """Warnings about one agent in an hour that are put on the record one by one; default 60."""
    alarm_ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.8
    """Share of a stream, of the account's storage or of a disk at which a first alarm is raised; default 0.8."""
    critical_ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    """Share at which a second one is raised; default 0.95."""
    store_dir: Path | None = None
    """Directory of nats-server's store when it is on the notifier's machine, whose disk is then watched; no default."""
    watch_s: Seconds = 15.0
    """Seconds between two looks at streams, account and disks; default 15."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each stream that has a limit, by the stream's name."""
        mebibytes = {
            "EVIDENCE": self.evidence_mib,
            "COMMANDS": self.commands_mib,
            "EVENTS": self.events_mib,
            "REVOCATIONS": self.revocations_mib,
            "DEAD": self.dead_mib,
            "ARCHIVE": self.archive_index_mib,
            "OBJ_evidence": self.archive_mib,
        }
        return {name: count << 20 for name, count in mebibytes.items()}


class RetentionConfig(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[retention]``: for how long the bus keeps what it has stored (docs/limits.md)."""

    events_days: Days = 400
    """Days of the record; from 7, or 0 for ever; default 400."""
    revocations_days: Days = 400
    """Days of revocations; from 7, or 0 for ever; default 400."""
    dead_days: Days = 30
    """Days of messages that could not be processed; 0: for ever; default 30."""
    archive_days: Days = 400
    """Most days of kept evidence and of its index, whatever a policy says; 0: as its policy says; default 400."""

    def __post_init__(self) -> None:
        """Refuse what would take away what somebody who was away for a few days has to read.

        :raises ValueError: an age is too low.
        """
        for name in ("events_days", "revocations_days"):
            if 0 < getattr(self, name) < LEAST_RECORD_DAYS:
                raise ValueError(f"`{name}` is less than {LEAST_RECORD_DAYS}; 0 is for ever")

    def ages(self) -> dict[str, int]:
        """Return the seconds that each stream keeps a message, by the stream's name; 0: for ever."""
        days = {
            "EVENTS": self.events_days,
            "REVOCATIONS": self.revocations_days,
            "DEAD": self.dead_days,
            "ARCHIVE": self.archive_days,
            "OBJ_evidence": self.archive_days,
        }
        return {name: count * 86_400 for name, count in days.items()}


class Config(Section, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    bus: BusConfig = BusConfig()
    trust: TrustConfig = TrustConfig()
    log: LogConfig = LogConfig()
    registrar: RegistrarConfig = RegistrarConfig()
    verifier: VerifierConfig = VerifierConfig()
    notifier: NotifierConfig = NotifierConfig()
    agent: AgentConfig = AgentConfig()
    limits: LimitsConfig = LimitsConfig()
    retention: RetentionConfig = RetentionConfig()


def _for_service(credentials: Path | None, name: str) -> Path | None:
    if credentials is None or not credentials.is_dir():
        return credentials
    return credentials / f"{name.partition(' ')[0]}.creds"
