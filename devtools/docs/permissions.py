"""The page about who may do what on the bus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from devtools.docs.text import code, page, table
from schemas.accounts import GUESTS, HOME, account_of, offers
from schemas.roles import GRANTS, NAME, SERVICES, Grant

_INTRODUCTION: Final = f"""\
Everybody who connects to the bus has a role. The server lets a role do what is on this page and refuses everything else. The
page is generated from `schemas/roles.py`, and so are the servers' permissions: each role has its own signing key, and
whatever a token says that this key has signed, its holder gets exactly the role's permissions. Tests try every role against
what every other role may do, and against what nobody may (`tests/security/test_permissions.py`).

`{NAME}` stands for the holder's own name: an agent's id as one subject token, a service's name, a person's name. `*` is any
one token, `>` is all that follow."""

_ACCOUNTS: Final = """\
JetStream sends its answers to whatever reply subject a request names, and does not ask whether the client may publish there.
In one account with the streams, whoever may read one message could have a stream deleted: the answer "no such message" is
an empty message, and an empty message to `$JS.API.STREAM.DELETE.<stream>` is an order. Therefore only services share an
account with the streams. Every other role has an account of its own, in which nothing exists but what the table of the role
names (`tests/security/test_accounts.py`).

Inside the services' account the same is true of the services: a registrar, verifier or notifier that has been taken over can
destroy what is stored. It can not forge it, because what counts is signed; restore it from a backup."""

_READING: Final = """\
Nobody but a verifier and a notifier has consumers. A consumer is state on the server, costs memory there, and the right to
create one is hard to bound; and whoever may read from a work queue takes evidence or commands away from the verifiers.
Everybody else reads by direct get (`$JS.API.DIRECT.GET.<stream>`), keeps its own place, and takes live messages as the sign
that there is something new to read.

Consumers are created by `$JS.API.CONSUMER.CREATE.<stream>.<name>.<filter>`: the server compares name and filter with the
request, so the right to create one filter is not the right to create a wider one."""

_RULES: Final = (
    ("Result (`att.result.*`)", "att.result.*"),
    ("Revocation (`att.revocation.*`)", "att.revocation.*"),
    ("Challenge (`att.agent.*.challenge`)", "att.agent.*.challenge"),
    ("Evidence of the agent itself", f"att.evidence.{NAME}"),
    ("Command (`att.command.*`; its signature decides which)", "att.command.*"),
    ("Removing an enrolment", "att.query.registrar.delete"),
    ("Changing the roster of keys", "att.registrar.roster"),
)


def document() -> str:
    """Return the page."""
    return page(
        "Permissions on the bus",
        _INTRODUCTION,
        "## Who may say what",
        table(("What", "Who"), ((what, ", ".join(_who(subject))) for what, subject in _RULES)),
        "## Accounts",
        _ACCOUNTS,
        table(("Account", "Who lives in it"), _homes()),
        "What the services' account offers to the others; each of them imports only what its own table names:",
        table(
            ("Subject", "What passes"),
            (
                *((code(one.subject), "requests, many answers" if one.many else "requests") for one in offers().services),
                *((code(subject), "messages to whoever listens") for subject in offers().streams),
            ),
        ),
        "## Reading streams",
        _READING,
        *(block for granted in GRANTS for block in _role(granted)),
    )


def _who(subject: str) -> Iterable[str]:
    return (code(granted.role) for granted in GRANTS if subject in granted.publish)


def _homes() -> Iterable[tuple[str, str]]:
    yield code(HOME), ", ".join(code(role) for role in SERVICES)
    for guest in GUESTS:
        yield code(account_of(guest)), code(guest)


def _role(granted: Grant) -> Iterable[str]:
    yield f"## `{granted.role}`"
    yield granted.doc
    limits = []
    if granted.replies:
        limits.append(f"may answer each message that reaches it {granted.replies} time within {granted.reply_s} s")
    if granted.subscriptions >= 0:
        limits.append(f"at most {granted.subscriptions} subscriptions")
    if granted.connections >= 0:
        limits.append(f"at most {granted.connections} connections of one identity")
    if granted.payload >= 0:
        limits.append(f"at most {granted.payload >> 10} KiB in a message")
    if limits:
        text = "; ".join(limits)
        yield f"{text[:1].upper()}{text[1:]}."
    rows = [("publish", code(subject)) for subject in granted.publish]
    rows += [("hear", code(subject)) for subject in granted.subscribe]
    yield table(("May", "Subject"), rows)
