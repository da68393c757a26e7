"""What a boot policy is, the two that need no reference state, and how one is applied to a log."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Final, NamedTuple

from attestream.errors import PolicyError
from attestream.uefi.policy.example import example_test
from attestream.uefi.policy.logic import AcceptAll, Evaluation, RejectAll, Test
from attestream.uefi.policy.reference import parse_reference_state

MODULE_ATTRIBUTE: Final = "BOOT_POLICIES"


class BootPolicy(abc.ABC):
    """Says which logs are good, given a reference state."""

    name: ClassVar[str]
    pcrs: ClassVar[frozenset[int]]
    """PCRs whose events it judges: they must be quoted. None: it judges no events, and the log needs only to be right."""
    needs_reference: ClassVar[bool] = True
    """Whether it means nothing without a reference state."""

    @abc.abstractmethod
    def test_for(self, reference: Any) -> Test:
        """Return the test for the reference state ``reference``, which comes from JSON.

        :raises PolicyError: when the reference state is not valid.
        """

    def signatures(self, reference: Any) -> Iterable[Iterable[Mapping[str, str]]]:  # noqa: ARG002  # the interface of a policy
        """Return for each variable signatures that logs are expected to have: ``SignatureOwner`` and ``SignatureData``.

        They are only prepared, which saves time: what is good, the test says.

        :raises PolicyError: when the reference state is not valid.
        """
        return ()


class AcceptAllPolicy(BootPolicy):
    """Every log is good that replays to the quoted PCRs."""

    name = "accept-all"
    pcrs = frozenset()
    needs_reference = False

    def test_for(self, reference: Any) -> Test:  # noqa: ARG002  # the interface of a policy
        """Return the test that passes everything."""
        return AcceptAll()


class RejectAllPolicy(BootPolicy):
    """No log is good."""

    name = "reject-all"
    pcrs = frozenset()
    needs_reference = False

    def test_for(self, reference: Any) -> Test:  # noqa: ARG002  # the interface of a policy
        """Return the test that passes nothing."""
        return RejectAll("reject all")


class ExamplePolicy(BootPolicy):
    """A Linux machine that boots through shim and GRUB: see :mod:`attestream.uefi.policy.example`."""

    name = "example"
    pcrs = frozenset({*range(10), 14})

    def test_for(self, reference: Any) -> Test:
        """Return the test for ``reference``, in the form of :mod:`attestream.uefi.policy.reference`.

        :raises PolicyError: when the reference state is not valid.
        """
        return example_test(parse_reference_state(reference))

    def signatures(self, reference: Any) -> Iterable[Iterable[Mapping[str, str]]]:
        """Return the keys and forbidden images of ``reference``.

        :raises PolicyError: when the reference state is not valid.
        """
        return parse_reference_state(reference).keys.values()


BUILT_IN: Final[Mapping[str, BootPolicy]] = {
    policy.name: policy for policy in (AcceptAllPolicy(), RejectAllPolicy(), ExamplePolicy())
}
"""Name -> policy."""


def with_modules(*modules: ModuleType) -> dict[str, BootPolicy]:
    """Return the built-in policies and those of ``modules``, by name.

    :raises PolicyError: when a module has no ``BOOT_POLICIES``, or two policies the same name.
    """
    policies = dict(BUILT_IN)
    for module in modules:
        own = getattr(module, MODULE_ATTRIBUTE, None)
        if not isinstance(own, list) or not all(isinstance(policy, BootPolicy) for policy in own):
            raise PolicyError(f"the module {module.__name__} has no list {MODULE_ATTRIBUTE} of boot policies")
        for policy in own:
            if policy.name in policies:
                raise PolicyError(f"the module {module.__name__} has a boot policy {policy.name!r}; there is one already")
            policies[policy.name] = policy
    return policies


class Judgement(NamedTuple):
    """What a test says about a log."""

    reason: str
    """Why the log is not good; empty when it is."""
    event: Any = None
    """The event that the reason is about, when it is about one: a member of ``events``."""
    event_reason: str = ""
    """The reason without the event, when it begins with it."""
    field: str = ""
    """The delayed field that the reason is about, when it is about one (:mod:`attestream.uefi.policy.delayed`)."""
    came_to: int = -1
    """How far the log came: of several judgements, the one with most has the reason that tells most."""


def judge(test: Test, log: Mapping[str, Any]) -> Judgement:
    """Return what ``test`` says about ``log``, in the dictionary form of :mod:`attestream.uefi.dictionary`."""
    evaluation = Evaluation()
    try:
        reason = test.why_not(evaluation, log)
    except PolicyError as error:
        return Judgement(failed(error.message))
    except Exception as error:  # noqa: BLE001  # a policy of an operator's own may raise anything: then the log is not good
        return Judgement(failed(f"{type(error).__name__}: {error}"))
    if not reason:
        return Judgement("")
    blamed, field = evaluation.blamed, evaluation.blamed_field
    if blamed is not None and reason.endswith(blamed.reason):
        return Judgement(reason, blamed.member, blamed.reason)
    return Judgement(reason) if field is None else Judgement(reason, field.event, "", field.field, evaluation.came_to)


def failed(why: str) -> str:
    """Return the reason for a log that could not be judged."""
    return f"policy evaluation failed: {why}"
