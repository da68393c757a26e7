"""The roster of the installation given to the bus, and whether a registrar has said that it has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attestream.errors import AttestreamError, SupersededError

if TYPE_CHECKING:
    from attestream.cli.session import Session
    from attestream.installation.places import Installation

CONFIRMED: Final = "a registrar has the new roster"
UNCONFIRMED: Final = "the bus has the new roster, but no registrar has said so: `attestream keys publish` asks again"
"""A bus in strange hands could keep it back."""


async def hand_in(session: Session, place: Installation, *, again: bool = False) -> str:
    """Give the bus the roster of ``place`` and return what has become of it, for people. ``again``: it may be there already.

    :raises SupersededError: the bus has another one that is as new.
    :raises BusError: ``again``, and the bus does not take it.
    """
    from attestream.installation.live import publish_roster
    from attestream.installation.roster import load_roster, signed_roster

    try:
        async with session.client() as client:
            try:
                await client.change_roster(signed_roster(place), timeout_s=session.timeout_s)
            except SupersededError:
                if not again or client.bus.trust.keyring.version != load_roster(place).version:
                    raise
    except SupersededError:
        raise
    except AttestreamError:
        # No registrar, or no admin: whoever may write the bucket can do it too.
        try:
            await publish_roster(place, session.urls())
        except SupersededError:
            raise
        except AttestreamError as error:
            if again:
                raise
            return (
                f"the bus does not have the new roster yet ({error.message}): "
                "`attestream up`, `attestream keys publish` or the next change puts it there"
            )
        return UNCONFIRMED
    return CONFIRMED
