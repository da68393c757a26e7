"""The key of the agent's identity on the bus: sealed by the TPM, or in a private file. It is never logged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

from attestream.credentials.nkey import Kind, NKey
from attestream.errors import MalformedError
from services.agent.private_file import read_private, write_private
from services.agent.tpm_device import TpmDevice

FILES: Final = {"tpm": "bus.sealed", "file": "bus.key"}
"""Where the key is kept in the data directory, mode 0600."""

_LIMIT: Final = 16_384
_log = logging.getLogger(__name__)

Kept = Literal["tpm", "file"]


def load(data_dir: Path, kept: Kept, tpm: TpmDevice) -> NKey:
    """Return the key; make one when there is none, or none that this TPM opens. Blocks.

    :raises ConfigError: the data directory can not be used.
    :raises TpmError: the TPM can not be used.
    """
    path = data_dir / FILES[kept]
    stored = read_private(path, _LIMIT)
    if stored is not None:
        try:
            private = tpm.unseal(stored) if kept == "tpm" else stored
            if private is not None:
                return NKey(Kind.USER, private)
            _log.warning("%s was sealed by another TPM: a new key for the bus will be made", path)
        except MalformedError:
            _log.warning("%s is damaged: a new key for the bus will be made", path)
    key = NKey.generate(Kind.USER)
    private = key.private_bytes()
    write_private(path, tpm.seal(private) if kept == "tpm" else private)
    for other in set(FILES) - {kept}:
        # One that is kept in another way now must not lie about.
        (data_dir / FILES[other]).unlink(missing_ok=True)
    _log.info("made a new key for the bus, %s, kept in %s", key.public, path)
    return key
