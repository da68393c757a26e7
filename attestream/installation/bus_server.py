"""The configuration of a nats-server that serves an installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from attestream.installation.files import read_text
from attestream.installation.places import Installation

_IDENTITIES: Final = """\
operator: "{operator}"
system_account: "{system}"
# Changes of the accounts are kept here: revoked identities stay revoked when the server starts again.
resolver: {{
  type: full
  dir: {directory}
  allow_delete: false
  interval: "2m"
}}
resolver_preload: {{
{accounts}
}}
"""


def identities(place: Installation, directory: Path) -> str:
    """Return the part of the configuration that says who may connect; ``directory`` is the server's own, for accounts.

    :raises ConfigError: a token of the installation can not be read.
    """
    from attestream.installation.bus_keys import load_token

    operator = read_text(place.operator_token, "the bus operator's token")
    paths = (place.system_token, place.account_token)
    preload = [f"  {load_token(path).subject}: {json.dumps(read_text(path, 'an account'))}" for path in paths]
    return _IDENTITIES.format(
        operator=operator,
        system=load_token(place.system_token).subject,
        directory=json.dumps(str(directory)),
        accounts="\n".join(preload),
    )
