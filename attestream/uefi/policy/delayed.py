"""Tests that gather values while a log is read and judge them together at its end.

The initializer comes first, then the fields where their values are met, then the :class:`DelayToFields` itself::

    digests = DelayToFields(FieldsTest(loaders=TupleTest(...)), "loaders")
    And(digests.get_initializer(), IterateTest(... digests.get("loaders") ...), digests)
"""

from __future__ import annotations

from typing import Any

from attestream.errors import PolicyError
from attestream.uefi.policy.logic import Evaluation, Test, all_tests


class DelayToFields(Test):
    """Asks ``fields_test`` about the dictionary of gathered lists, one for each of ``field_names``, whatever its subject."""

    __slots__ = ("field_names", "fields_test")

    def __init__(self, fields_test: Test, *field_names: str) -> None:
        (self.fields_test,) = all_tests((fields_test,))
        self.field_names = field_names

    def get_initializer(self) -> DelayInitializer:
        """Return the test that begins the lists anew and passes everything."""
        return DelayInitializer(self)

    def get(self, field_name: str) -> DelayedField:
        """Return the test that adds its subject to a list and passes everything.

        :raises PolicyError: when there is no list of that name.
        """
        return DelayedField(self, field_name)

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return the reason about the gathered lists."""
        return self.fields_test.why_not(evaluation, dict(evaluation.gathered(self)))


class DelayInitializer(Test):
    """Begins the lists of ``delayer`` anew and passes everything."""

    __slots__ = ("delayer",)

    def __init__(self, delayer: DelayToFields) -> None:
        self.delayer = delayer

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return nothing."""
        evaluation.start_gathering(self.delayer, self.delayer.field_names)
        return ""


class DelayedField(Test):
    """Adds its subject to the list ``field_name`` of ``delayer`` and passes everything.

    :raises PolicyError: when the delayer has no list of that name.
    """

    __slots__ = ("delayer", "field_name")

    def __init__(self, delayer: DelayToFields, field_name: str) -> None:
        if field_name not in delayer.field_names:
            raise PolicyError(f"{field_name!r} is none of the delayed fields {delayer.field_names}")
        self.delayer = delayer
        self.field_name = field_name

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return nothing."""
        values = evaluation.gathered(self.delayer)[self.field_name]
        values.append(subject)
        values.events.append(evaluation.member)
        return ""
