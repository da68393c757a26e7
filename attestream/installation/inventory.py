"""Which keys an installation has, which of them count, and which private halves are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.errors import ConfigError
from attestream.installation.bus_keys import load_token
from attestream.installation.people import SIGNING_KEY
from attestream.installation.places import Installation
from attestream.installation.root_key import voucher_in
from attestream.installation.roster import counting_roots, load_roster
from attestream.installation.rotation import end_of
from attestream.signing import Signer
from schemas.roles import GRANTS, TENANTS, Role
from schemas.trust import Roster


def signers(place: Installation) -> list[dict[str, Any]]:
    """Return the roster's keys; times are in Unix seconds, 0 for none.

    :raises ConfigError: the roster can not be read.
    """
    roster = load_roster(place)
    found = _roots(place, roster)
    for key in roster.keys:
        path = place.operator(key.name) / SIGNING_KEY if key.role in TENANTS else place.service_key(key.role)
        found.append(
            {
                "role": str(key.role),
                "name": key.name,
                "key": key.key_id,
                "until": key.not_after // 1000,
                "revoked_at": key.revoked_at // 1000,
                "here": _is(path, key.key_id),
            }
        )
    return found


def _roots(place: Installation, roster: Roster) -> list[dict[str, Any]]:
    """Return the root keys: those that have given their place to another, while rosters carry their vouchers, and the one
    that counts."""
    ends = {signed.key_id: voucher_in(signed).until // 1000 for signed in roster.vouchers}
    ends |= dict.fromkeys(sorted(counting_roots(place, roster).key_ids), 0)
    return [
        {"role": "root", "name": "root", "key": key, "until": until, "revoked_at": 0, "here": _is(place.root_key, key)}
        for key, until in ends.items()
    ]


def issuers(place: Installation) -> list[dict[str, Any]]:
    """Return the keys that issue identities on the bus, as this machine knows them; times are in Unix seconds, 0 for none.

    :raises ConfigError: an account can not be read.
    """
    found = []
    for granted in GRANTS:
        for scope in load_token(place.account_token(granted.role)).nats.get("signing_keys", []):
            if scope["role"].partition(" ")[0] != granted.role:
                continue
            until = end_of(scope["role"])
            found.append(
                {
                    "role": str(granted.role),
                    "key": scope["key"],
                    "until": until,
                    "revoked_at": 0,
                    "here": not until and place.issuer(granted.role).exists(),
                }
            )
    return found


def offline(place: Installation) -> list[dict[str, Any]]:
    """Return the private keys that daily work does not need, with what they are for."""
    files = {
        "root key: signs the roster of keys (`keys rotate`, `operators`)": place.root_key,
        "bus operator's own key: `keys rotate bus-operator`": place.operator_seed,
        "certificate authority's key: `certificates renew`": place.tls / "ca.key",
    }
    # The registrar alone needs the key of agents while it runs; the others are for `identities issue` and `keys rotate`.
    needed = {Role.AGENT}
    for granted in GRANTS:
        if granted.role not in needed:
            files[f"issues identities of role {granted.role}"] = place.issuer(granted.role)
    return [{"what": what, "file": str(path), "here": path.exists()} for what, path in files.items()]


def _is(path: Path, key_id: str) -> bool:
    try:
        return Signer.load(path).key_id == key_id
    except ConfigError:
        return False
