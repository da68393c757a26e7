"""What belongs to a kept appraisal on the bus: its policy with its layers, and the log of its boot."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from attestream.appraisal.layers import layer_names
from attestream.appraisal.policy import CompiledPolicy, compile_policy
from attestream.appraisal.state import decode_state
from attestream.archive.logs import Boot, read_log
from attestream.archive.replaying import evidence_of, with_earlier
from attestream.client import policies
from attestream.errors import ConfigError
from attestream.tpm.structures import parse_quote
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy, with_modules
from schemas.attestation import ImaDelta

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from schemas.archive import ArchivedAppraisal


class Documents(NamedTuple):
    """A policy as it was published."""

    policy: bytes
    layers: Mapping[str, bytes]
    """``name@version`` -> document."""

    def compiled(self, kept: ArchivedAppraisal, modules: Iterable[str] = ()) -> CompiledPolicy:
        """Return the policy, with the boot policies in ``modules``, which are imported.

        :raises ConfigError: when a module can not be imported, or is missing that the verifier had.
        :raises PolicyError: when the documents are not valid.
        """
        return compile_policy(self.policy, self.layers, boot_policies=boot_policies(kept, modules))


def boot_policies(kept: ArchivedAppraisal, modules: Iterable[str]) -> Mapping[str, BootPolicy]:
    """Return the boot policies that the verifier had. Nothing is imported but what ``modules`` names: what was kept must not
    decide what code runs.

    :raises ConfigError: when one is missing or can not be imported.
    """
    given = list(modules)
    if missing := [name for name in kept.boot_policies if name not in given]:
        raise ConfigError(
            f"the verifier had boot policies of {', '.join(missing)}", remedy="Name each with --boot-policies MODULE."
        )
    if not given:
        return BUILT_IN
    try:
        return with_modules(*map(importlib.import_module, given))
    except ImportError as error:
        raise ConfigError(f"boot policies can not be imported: {error}") from error


async def documents(bus: Bus, kept: ArchivedAppraisal) -> Documents:
    """Return the policy that was in use.

    :raises UnknownPolicyError: when the bus does not have it any more.
    :raises BusError: when the bus does not answer.
    """
    _, document = await policies.find(bus, kept.policy)
    return Documents(document, {name: (await policies.find(bus, name))[1] for name in layer_names(document)})


async def earlier_log(bus: Bus, kept: ArchivedAppraisal) -> ImaDelta | None:
    """Return the log of the boot up to where the kept evidence's own begins; ``None`` when it is not kept, or not needed.

    :raises MalformedError: when the evidence can not be read.
    :raises BusError: when the bus does not answer.
    """
    ima = evidence_of(kept).ima
    return await read_log(bus, kept.agent_id, boot_of(kept), ima.ima_first) if ima is not None and ima.ima_first else None


async def whole_log(bus: Bus, kept: ArchivedAppraisal) -> ImaDelta | None:
    """Return the log of the boot as it was at the time of the kept evidence; ``None`` when not all of it is kept.

    Errors are those of :func:`earlier_log`.
    """
    evidence = evidence_of(kept)
    if evidence.ima is None:
        return await read_log(bus, kept.agent_id, boot_of(kept), decode_state(kept.state_after).ima_entries)
    if not evidence.ima.ima_first:
        return evidence.ima
    earlier = await earlier_log(bus, kept)
    return with_earlier(evidence, earlier).ima if earlier is not None else None


def boot_of(kept: ArchivedAppraisal) -> Boot:
    """Return the boot that the kept quote tells of.

    :raises MalformedError: when the quote can not be read.
    """
    clock = parse_quote(evidence_of(kept).quote).clock
    return Boot(kept.enrolment, clock.reset_count, clock.restart_count)
