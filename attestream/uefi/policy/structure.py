"""Tests that take dictionaries and lists apart."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from attestream.errors import PolicyError
from attestream.uefi.policy.logic import And, Blame, Evaluation, Gathered, Test, all_tests

NO_DICT = "is not a dict"
NO_LIST = "is not a list"


class Dispatcher(Test):
    """Asks the test that was set for the values which a dictionary has under ``key_names``; other values do not pass.

    :raises PolicyError: when there is no key name, or one is no string.
    """

    __slots__ = ("_values_of", "key_names", "tests")

    def __init__(self, key_names: tuple[str, ...]) -> None:
        if not key_names or not all(isinstance(name, str) for name in key_names):
            raise PolicyError("Dispatcher needs one or more names of keys")
        self.key_names = tuple(key_names)
        self._values_of = itemgetter(*key_names)
        self.tests: dict[tuple[int | str, ...], Test] = {}

    def set(self, key_vals: tuple[int | str, ...], test: Test) -> None:
        """Let ``test`` judge the dictionaries with these values.

        :raises PolicyError: when the number of values is not that of the key names, or they have a test already.
        """
        if len(key_vals) != len(self.key_names):
            raise PolicyError(f"{key_vals!a} has not one value for each of {self.key_names}")
        if key_vals in self.tests:
            raise PolicyError(f"{key_vals!a} has a test already")
        (self.tests[key_vals],) = all_tests((test,))

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the reason of the chosen test, or that there is none to choose."""
        if not isinstance(subject, dict):
            return NO_DICT
        try:
            found = self._values_of(subject)
        except KeyError as error:
            return f"has no {error.args[0]}"
        values = found if len(self.key_names) > 1 else (found,)
        try:
            test = self.tests.get(values)
        except TypeError:  # of a list or a dictionary: no test is set for such
            test = None
        # The number 4.0 is no event's, though it equals 4.
        if test is None or float in map(type, values):
            return f"has unexpected {self.key_names} combination {values}"
        return test.why_not(evaluation, subject)


class FieldTest(Test):
    """Asks ``field_test`` about one entry of a dictionary. Reasons begin with the field's name if ``show_name``."""

    __slots__ = ("field_name", "field_test", "show_name")

    def __init__(self, field_name: str, field_test: Test, show_name: bool = True) -> None:
        if not isinstance(field_name, str):
            raise PolicyError(f"{field_name!r} is not the name of a field")
        self.field_name = field_name
        (self.field_test,) = all_tests((field_test,))
        self.show_name = show_name

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the reason about the entry, or that there is none."""
        if not isinstance(subject, dict):
            return NO_DICT
        try:
            value = subject[self.field_name]
        except KeyError:
            return f"has no {self.field_name!a} field"
        reason = self.field_test.why_not(evaluation, value)
        return reason and (f"{self.field_name} {reason}" if self.show_name else reason)


class FieldsTest(And):
    """Asks about several entries of a dictionary, in the order in which the tests are given."""

    __slots__ = ()

    def __init__(self, **fields: Test) -> None:
        super().__init__(*(FieldTest(name, test) for name, test in fields.items()))


class IterateTest(Test):
    """Asks ``elt_test`` about each member of a list. A reason begins with its index, or with itself if ``show_elt``."""

    __slots__ = ("elt_test", "show_elt")

    def __init__(self, elt_test: Test, show_elt: bool = False) -> None:
        (self.elt_test,) = all_tests((elt_test,))
        self.show_elt = show_elt

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the reason about the first member that does not pass."""
        if not isinstance(subject, list):
            return NO_LIST
        why_not = self.elt_test.why_not
        show = self.show_elt
        for index, member in enumerate(subject):
            if show:
                evaluation.member = member
            if reason := why_not(evaluation, member):
                if not show:
                    return f"[{index}] {reason}"
                evaluation.blamed = Blame(member, reason)
                return f"{member!a} {reason}"
        return ""


class TupleTest(Test):
    """Asks one test for each member of a list that must be as long as there are tests.

    With ``pad`` a shorter list passes if the tests left over pass None.
    """

    __slots__ = ("member_tests", "pad")

    def __init__(self, *member_tests: Test, pad: bool = False) -> None:
        self.member_tests = all_tests(member_tests)
        self.pad = pad

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return what is wrong with the length, or the reason about the first member that does not pass."""
        if not isinstance(subject, list):
            return NO_LIST
        reason, place = self._first_reason(evaluation, subject)
        if isinstance(subject, Gathered):
            if reason:
                evaluation.blame_field(subject, place)
            else:
                evaluation.pass_field()
        return reason

    def _first_reason(self, evaluation: Evaluation, subject: list[Any]) -> tuple[str, int]:
        """Return why the list does not pass, and the place of the member that is to blame."""
        wanted = len(self.member_tests)
        # The space in front stands in the field's texts too.
        if len(subject) > wanted:
            return f" is longer ({len(subject)}) than the applicable tests ({wanted})", wanted
        if len(subject) < wanted and not self.pad:
            return f" is shorter ({len(subject)}) than the applicable tests ({wanted})", len(subject)
        padded = subject + [None] * (wanted - len(subject))
        for index, (test, member) in enumerate(zip(self.member_tests, padded, strict=True)):
            if reason := test.why_not(evaluation, member):
                return f"[{index}] {reason}", index
        return "", 0
