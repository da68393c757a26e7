"""Reads docstrings out of source: also those of attributes and constants, which are gone at run time."""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType
from typing import NamedTuple

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)


class Member(NamedTuple):
    """An attribute of a class, or a constant of a module."""

    name: str
    annotation: str
    """As written; empty for a member of an enumeration."""
    default: str | None
    """As written; ``None`` when there is none."""
    doc: str


class Described(NamedTuple):
    """A class."""

    name: str
    doc: str
    members: tuple[Member, ...]


class Source(NamedTuple):
    """A module."""

    doc: str
    classes: dict[str, Described]
    constants: tuple[Member, ...]


def read(module: ModuleType) -> Source:
    """Return what ``module`` says about itself, in the order of the source."""
    tree = ast.parse(inspect.getsource(module))
    classes = {
        node.name: Described(node.name, _doc(node), _members(node.body))
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    return Source(_doc(tree), classes, _members(tree.body))


def markdown(text: str) -> str:
    """Return a docstring in Markdown on one line: literals and roles become code."""

    def role(match: re.Match[str]) -> str:
        return f"`{match[1].rpartition('.')[2]}`"

    return " ".join(_LITERAL.sub(r"`\1`", _ROLE.sub(role, text)).split())


def _doc(node: ast.Module | ast.ClassDef) -> str:
    return ast.get_docstring(node) or ""


def _members(body: list[ast.stmt]) -> tuple[Member, ...]:
    members = []
    for number, node in enumerate(body):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                kind = ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                kind = ""
            case _:
                continue
        following = body[number + 1] if number + 1 < len(body) else None
        members.append(Member(name, kind, ast.unparse(value) if value is not None else None, _text(following)))
    return tuple(members)


def _text(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str() as text)):
            return inspect.cleandoc(text)
    return ""
