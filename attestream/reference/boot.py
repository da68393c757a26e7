"""Puts what one boot log tells into the ``boot`` of a policy document, besides what is allowed there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestream.appraisal.document import check_object
from attestream.appraisal.policy import FORMAT
from attestream.errors import PolicyError

_EXAMPLE: Final = "example"


def with_reference_state(
    state: Mapping[str, Any], *, base: Mapping[str, Any] | None, bank: str, description: str = ""
) -> dict[str, Any]:
    """Return a policy document by whose boot policy ``example`` a log is good by ``state``, or by one of ``base``.

    :raises PolicyError: when the boot policy of ``base`` is another one.
    """
    document, boot = _started(base, bank, description)
    named = boot.setdefault("policy", _EXAMPLE)
    if named != _EXAMPLE:
        raise PolicyError(
            f"the base has the boot policy {named!r}; reference states are for {_EXAMPLE!r}",
            remedy="Take the boot policy out of the base.",
        )
    states = boot.setdefault("reference_states", [])
    if not isinstance(states, list):
        raise PolicyError("boot.reference_states: must be a list")
    if state not in states:
        boot["reference_states"] = [*states, state]
    return document


def with_settings(
    settings: Mapping[str, Any], *, base: Mapping[str, Any] | None, bank: str, pcrs: list[int], description: str = ""
) -> dict[str, Any]:
    """Return a policy document that allows a boot by ``settings``, and by those of ``base``.

    Of what both judge, either is allowed: keys of either, boots of either, and in dbx only what both demand must be there.
    What ``base`` does not judge is judged by ``settings`` from now on.

    :param settings: see :mod:`attestream.appraisal.boot_expectations`.
    :param pcrs: that the log must explain besides.
    :param bank: of a document without ``base``, which is of its own.
    :raises PolicyError: when ``base`` has other phases.
    """
    document, boot = _started(base, bank, description)
    boot["pcrs"] = sorted({*_list(boot, "pcrs"), *pcrs})
    if settings.get("secure_boot"):
        boot.setdefault("secure_boot", True)
    else:
        boot.pop("secure_boot", None)
    if "phases" in settings and boot.setdefault("phases", settings["phases"]) != settings["phases"]:
        raise PolicyError("the base has other phases", remedy="Give the same, or take them out of the base.")
    if keys := settings.get("keys"):
        boot["keys"] = _either(check_object(boot.get("keys", {}), "boot.keys"), keys)
    if "dbx" in settings:
        forbidden = settings["dbx"]
        boot["dbx"] = [one for one in _list(boot, "dbx") if one in forbidden] if "dbx" in boot else forbidden
    if "boots" in settings:
        listed = _list(boot, "boots")
        boot["boots"] = [*listed, *(one for one in settings["boots"] if one not in listed)]
    return document


def _started(base: Mapping[str, Any] | None, bank: str, description: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a document that can be changed, and its ``boot``."""
    document: dict[str, Any] = dict(base) if base else {"format": FORMAT, "description": description, "bank": bank}
    boot = dict(check_object(document.get("boot", {}), "boot"))
    document["boot"] = boot
    return document, boot


def _list(boot: Mapping[str, Any], name: str) -> list[Any]:
    value = boot.get(name, [])
    if not isinstance(value, list):
        raise PolicyError(f"boot.{name}: must be a list")
    return value


def _either(before: Mapping[str, Any], added: Mapping[str, list[str]]) -> dict[str, Any]:
    return {name: sorted({*_list(before, name), *added.get(name, [])}) for name in {*before, *added}}
