"""What a test is, what the tests of one evaluation share, and the tests that only combine others."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from attestream.errors import PolicyError

EMPTY_OR: Final = "does not pass empty disjunction"


class Blame(NamedTuple):
    """A member of a list that did not pass, and why."""

    member: Any
    reason: str


class Gathered(list[Any]):
    """The values of a delayed field, in the order of the log, with the event that each comes from."""

    __slots__ = ("events", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.events: list[Any] = []


class FieldBlame(NamedTuple):
    """A delayed field that did not pass: its name, and the event to blame, None where one is missing."""

    field: str
    event: Any


class Evaluation:
    """The memory of one evaluation of one log. Tests are without state, so one may serve any number of evaluations."""

    __slots__ = ("_gathered", "_passed", "_ran", "blamed", "blamed_field", "came_to", "member")

    def __init__(self) -> None:
        self._ran: set[Test] = set()
        self._gathered: dict[object, dict[str, Gathered]] = {}
        self._passed = 0
        self.came_to = -1
        """How many delayed fields passed in the alternative that came furthest; -1 when none was asked."""
        self.member: Any = None
        """The list member that is looked at, of a list whose members are shown in reasons."""
        self.blamed: Blame | None = None
        """The last list member that was shown in a reason (see ``show_elt`` of IterateTest)."""
        self.blamed_field: FieldBlame | None = None
        """The delayed field to blame, of the alternative that came furthest."""

    def first_run(self, test: Test) -> bool:
        """Return whether ``test`` asks for the first time in this evaluation."""
        if test in self._ran:
            return False
        self._ran.add(test)
        return True

    def start_gathering(self, owner: object, names: Iterable[str]) -> None:
        """Begin an empty list for each of ``names``; what ``owner`` gathered before is dropped."""
        self._gathered[owner] = {name: Gathered(name) for name in names}

    def pass_field(self) -> None:
        """Note that a delayed field passed."""
        self._passed += 1

    def blame_field(self, values: Gathered, place: int) -> None:
        """Note that a delayed field does not pass for its value at ``place``, or for the lack of one there."""
        if self._passed > self.came_to:
            event = values.events[place] if place < len(values.events) else None
            self.blamed_field, self.came_to = FieldBlame(values.name, event), self._passed
        self._passed = 0  # what follows is another alternative

    def gathered(self, owner: object) -> Mapping[str, Gathered]:
        """Return the lists of ``owner``.

        :raises PolicyError: when it has not begun to gather.
        """
        lists = self._gathered.get(owner)
        if lists is None:
            raise PolicyError("a delayed test gathers values before its initializer has run")
        return lists


class Test(abc.ABC):
    """Something that approves of a value or tells why not. Values are those of JSON: the dictionary form of a log."""

    __slots__ = ()
    __test__ = False  # it is not a test case, whatever pytest thinks of the name

    @abc.abstractmethod
    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return why ``subject`` does not pass, as the rest of a sentence that begins with its name; or nothing."""


class AcceptAll(Test):
    """Passes everything."""

    __slots__ = ()

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return nothing."""
        return ""


class RejectAll(Test):
    """Passes nothing.

    :raises PolicyError: when ``why`` is empty.
    """

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        if not why:
            raise PolicyError("RejectAll needs a reason")
        self.why = why

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return the reason that it was made with."""
        return self.why


class And(Test):
    """Passes what all of ``tests`` pass. They are asked in order, and the first reason is the answer."""

    __slots__ = ("tests",)

    def __init__(self, *tests: Test) -> None:
        self.tests = all_tests(tests)

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the first reason of a member."""
        for test in self.tests:
            if reason := test.why_not(evaluation, subject):
                return reason
        return ""


class Or(Test):
    """Passes what one of ``tests`` passes. They are asked in order until then; else all reasons are the answer."""

    __slots__ = ("tests",)

    def __init__(self, *tests: Test) -> None:
        self.tests = all_tests(tests)

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the reasons of all members, unless one has none."""
        reasons: list[str] = []
        for test in self.tests:
            reason = test.why_not(evaluation, subject)
            if not reason:
                return ""
            reasons.append(reason)
        return f"[{', '.join(reasons)}]" if reasons else EMPTY_OR


class OnceTest(Test):
    """Asks ``test``, but only once in an evaluation: the second subject does not pass."""

    __slots__ = ("test",)

    def __init__(self, test: Test) -> None:
        (self.test,) = all_tests((test,))

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return the reason of the inner test, or that it was asked before."""
        return self.test.why_not(evaluation, subject) if evaluation.first_run(self) else "test was already run once"


def all_tests(tests: Iterable[Test]) -> tuple[Test, ...]:
    """Return ``tests``.

    :raises PolicyError: when one is not a test.
    """
    checked = tuple(tests)
    for test in checked:
        if not isinstance(test, Test):
            raise PolicyError(f"{test!r} is not a test")
    return checked


def shown(value: Any) -> str:
    """Return ``value`` as Python shows it, but with the members of sets in order: a reason is the same text every time."""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}" if value else "set()"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {shown(item)}" for key, item in value.items()) + "}"
    return repr(value)
