"""The roster: which key may sign what. Made and changed here, by the root key; published by the provisioner."""

from __future__ import annotations

from attestream.errors import AttestreamError, ConfigError
from attestream.installation.files import PUBLIC, read_secret, read_text, replace
from attestream.installation.places import Installation
from attestream.signing import Signer, TrustedKeys
from attestream.trust.roots import follow, open_roster
from schemas.base import SchemaError, decode, encode
from schemas.events import Signed
from schemas.trust import Roster


def load_roster(place: Installation) -> Roster:
    """Return the roster of an installation, after its signature was verified.

    :raises ConfigError: it can not be read, or is not a roster.
    :raises SignatureError: it was not signed by the installation's root.
    """
    return open_roster(signed_roster(place), _root_keys(place))[0]


def believed_roster(place: Installation, data: bytes) -> Roster | None:
    """Return the roster in ``data`` if the installation believes it.

    :raises ConfigError: the root's public key can not be read.
    """
    roots = _root_keys(place)
    try:
        return open_roster(decode(data, Signed), roots)[0]
    except (AttestreamError, SchemaError):
        return None


def signed_roster(place: Installation) -> Signed:
    """Return the roster of an installation as it travels; nothing is verified.

    :raises ConfigError: it can not be read, or is not a roster.
    """
    try:
        return decode(place.roster.read_bytes(), Signed)
    except OSError as error:
        raise ConfigError(f"the roster can not be read: {error}") from error
    except SchemaError as error:
        raise ConfigError(f"{place.roster} is not a roster: {error}") from error


def load_root(place: Installation) -> Signer:
    """Return the root key.

    :raises ConfigError: it is not here, or not usable.
    """
    read_secret(place.root_key, "the root key")
    return Signer.load(place.root_key)


def counting_roots(place: Installation, roster: Roster) -> TrustedKeys:
    """Return the root keys that count once those that this installation knows have vouched in ``roster``.

    :raises ConfigError: the root's public key can not be read.
    :raises SignatureError: a voucher was altered.
    """
    return follow(_root_keys(place), roster.vouchers, roster.installation)


def write_roster(place: Installation, roster: Roster, root: Signer) -> None:
    """Sign a roster and write it.

    :raises ConfigError: the root key is one that has given its place to another.
    :raises OSError: it can not be written.
    """
    if root.key_id not in counting_roots(place, roster).key_ids:
        raise ConfigError(
            f"{place.root_key} is not the root key that counts: nobody would believe the roster",
            remedy="If a rotation was interrupted, give `attestream keys rotate root` again; else put the newest key there.",
        )
    replace(place.roster, encode(root.sign(roster)), PUBLIC)


def _root_keys(place: Installation) -> TrustedKeys:
    try:
        return TrustedKeys.from_pems([read_text(place.root_public, "the root's public key")])
    except AttestreamError as error:
        raise ConfigError(f"{place.root_public}: {error.message}") from error
