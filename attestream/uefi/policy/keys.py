"""Tests of UEFI variables and of the signature lists that PK, KEK, db and dbx hold.

Source: UEFI Specification 2.10, section 32.4.1 (EFI_SIGNATURE_LIST).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from attestream.errors import PolicyError
from attestream.uefi.forms import NO_FORMS, prepared_forms
from attestream.uefi.frozen import FrozenDict, SignatureForms
from attestream.uefi.policy.logic import And, Evaluation, Or, Test, shown
from attestream.uefi.policy.structure import NO_DICT, NO_LIST, Dispatcher, FieldTest, IterateTest, TupleTest
from attestream.uefi.policy.values import RegExp, StringEqual

Signature = Mapping[str, str]
"""``SignatureOwner`` (a GUID) and ``SignatureData`` (hexadecimal, without 0x)."""

_DICTIONARIES: Final[frozenset[object]] = frozenset((dict, FrozenDict))
SIGNATURE_FIELDS = ("SignatureOwner", "SignatureData")


class VariableTest(Test):
    """Passes an event about the variable ``variable_name`` (a GUID), ``unicode_name`` whose data ``data_test`` passes.

    ``unicode_name`` is a text, or an expression that must match the whole of it.
    """

    __slots__ = ("data_test", "unicode_name", "variable_name")

    def __init__(self, variable_name: str, unicode_name: str | RegExp, data_test: Test) -> None:
        if not isinstance(unicode_name, str | RegExp):
            raise PolicyError(f"{unicode_name!r} is neither a text nor an expression")
        self.variable_name = variable_name
        self.unicode_name = unicode_name
        self.data_test = data_test

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return which field is missing or another, or the reason about the data."""
        if not isinstance(subject, dict):
            return NO_DICT
        if "Event" not in subject:
            return "has no Event field"
        event = subject["Event"]
        if not isinstance(event, dict):
            return f"Event {NO_DICT}"
        return self._other_variable(event) or self.data_test.why_not(evaluation, event["VariableData"])

    def _other_variable(self, event: dict[str, Any]) -> str:
        if "VariableName" in event and event["VariableName"] != self.variable_name:
            return f"Event.VariableName is {event['VariableName']} rather than {self.variable_name}"
        for name in ("VariableName", "UnicodeName", "VariableData"):
            if name not in event:
                return f"Event has no {name} field"
        found = event["UnicodeName"]
        if not isinstance(found, str):
            return "Event.UnicodeName is not a str"
        if isinstance(self.unicode_name, RegExp):
            matches = self.unicode_name.matches(found)
            return "" if matches else f"Event.UnicodeName, {found}, does not match {self.unicode_name.pattern}"
        return "" if found == self.unicode_name else f"Event.UnicodeName is {found} rather than {self.unicode_name}"


class VariableDispatch(FieldTest):
    """Asks the test that was set for the variable which an event is about; other variables do not pass."""

    __slots__ = ("_variables",)

    def __init__(self) -> None:
        self._variables = Dispatcher(("VariableName", "UnicodeName"))
        super().__init__("Event", self._variables)

    def set(self, variable_name: str, unicode_name: str, data_test: Test) -> None:
        """Let ``data_test`` judge the data of a variable.

        :raises PolicyError: when the variable has a test already.
        """
        self._variables.set((variable_name, unicode_name), FieldTest("VariableData", data_test))


class SignatureTest(And):
    """Passes one signature: the same owner and the same data."""

    __slots__ = ()

    def __init__(self, owner: str, data: str) -> None:
        super().__init__(FieldTest("SignatureOwner", StringEqual(owner)), FieldTest("SignatureData", StringEqual(data)))


class SignatureSetMember(Test):
    """Passes any of ``sigs``. It takes the same time for one as for thousands; only a refusal is explained one by one."""

    __slots__ = ("_known", "_listed")

    def __init__(self, sigs: Iterable[Signature]) -> None:
        self._listed = [_pair(signature) for signature in sigs]
        self._known = frozenset(self._listed)

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:
        """Return in what the subject differs from each of the signatures."""
        if isinstance(subject, dict):
            pair = (subject.get("SignatureOwner"), subject.get("SignatureData"))
            if isinstance(pair[0], str) and isinstance(pair[1], str) and pair in self._known:
                return ""
        return Or(*(SignatureTest(owner, data) for owner, data in self._listed)).why_not(evaluation, subject)


class KeySubset(IterateTest):
    """Passes signature lists of the type ``sig_type`` that hold nothing but ``keys``."""

    __slots__ = ()

    def __init__(self, sig_type: str, keys: Iterable[Signature]) -> None:
        super().__init__(_list_of(sig_type, SignatureSetMember(keys)))


class KeySubsetMulti(IterateTest):
    """Passes signature lists of any of the types ``sig_types`` that hold nothing but ``keys``."""

    __slots__ = ()

    def __init__(self, sig_types: Iterable[str], keys: Iterable[Signature]) -> None:
        member = SignatureSetMember(keys)
        super().__init__(Or(*(_list_of(sig_type, member) for sig_type in sig_types)))


class SupersetOfDicts(Test):
    """Passes a list of dictionaries, each with exactly the keys ``field_names``, among which are all of ``reqs``."""

    __slots__ = ("_pieces", "field_names", "reqs")

    def __init__(self, reqs: Iterable[Mapping[str, Any]], field_names: tuple[str, ...]) -> None:
        reqs = list(reqs)
        self.field_names = tuple(field_names)
        names = frozenset(self.field_names)
        wanted = [_values(required, self.field_names, names) for required in reqs]
        if None in wanted:
            raise PolicyError(f"each required member must have exactly the fields {self.field_names}")
        self.reqs = frozenset(values for values in wanted if values is not None)
        # Where the members are signatures and the forms of some bytes, those bytes are as good as their forms.
        signatures = self.field_names == SIGNATURE_FIELDS
        forms = (prepared_forms([reqs]) if signatures else NO_FORMS).signatures
        whole = signatures and self.reqs == {_values(form, self.field_names, names) for form in forms.values()}
        self._pieces = frozenset(forms) if whole else None

    def why_not(self, evaluation: Evaluation, subject: Any) -> str:  # noqa: ARG002  # the interface of a test
        """Return which required members are missing, or which member has other keys."""
        if not isinstance(subject, list):
            return NO_LIST
        if self._pieces is not None and isinstance(subject, SignatureForms) and self._pieces.issubset(subject.pieces):
            return ""
        found = _uniform(subject, self.field_names)
        return self._lacking(found) if found is not None else self._one_by_one(subject)

    def _lacking(self, found: set[Any]) -> str:
        missing = self.reqs - found
        return f"lacks {self.field_names} combinations {shown(missing)}" if missing else ""

    def _one_by_one(self, subject: list[Any]) -> str:
        names, wanted = self.field_names, frozenset(self.field_names)
        found = set()
        for member in subject:
            if not isinstance(member, dict):
                return f"member {member} {NO_DICT}"
            values = _values(member, names, wanted)
            if values is None:
                return f"member {member!r} does not have the right set of field names {self.field_names}"
            found.add(values)
        return self._lacking(found)


class KeySuperset(TupleTest):
    """Passes exactly one signature list, of the type ``sig_type``, that holds all of ``keys`` and maybe more."""

    __slots__ = ()

    def __init__(self, sig_type: str, keys: Iterable[Signature]) -> None:
        super().__init__(_list_of(sig_type, SupersetOfDicts(keys, SIGNATURE_FIELDS), each=False))


def _list_of(sig_type: str, test: Test, *, each: bool = True) -> Test:
    keys = IterateTest(test) if each else test
    return And(FieldTest("SignatureType", StringEqual(sig_type)), FieldTest("Keys", keys))


def _pair(signature: Signature) -> tuple[str, str]:
    values = _values(signature, SIGNATURE_FIELDS, frozenset(SIGNATURE_FIELDS))
    if values is None or not all(isinstance(value, str) for value in values):
        raise PolicyError(f"a signature has the fields {SIGNATURE_FIELDS}, both text")
    return values[0], values[1]


def _uniform(members: list[Any], names: tuple[str, ...]) -> set[Any] | None:
    """Return the values under two or more ``names`` of members that all have just these, at the speed of built-ins."""
    if len(names) < 2 or not _DICTIONARIES.issuperset(map(type, members)) or set(map(len, members)) != {len(names)}:
        return None
    try:
        return set(map(itemgetter(*names), members))
    except (KeyError, TypeError):  # another name, or a value that can not be compared
        return None


def _values(member: Mapping[str, Any], names: tuple[str, ...], keys: frozenset[str]) -> tuple[Any, ...] | None:
    """Return the values under ``names``, or None when the keys are not ``keys`` or a value can not be compared."""
    if member.keys() != keys:
        return None
    values = tuple([member[name] for name in names])
    for value in values:
        if type(value) is not str and isinstance(value, dict | list):
            return None
    return values
