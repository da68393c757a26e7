"""The pages about findings, errors, metrics and settings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from attestream import config
from attestream.appraisal.findings import FINDINGS
from attestream.appraisal.kinds import Kind
from attestream.appraisal.severity import is_fixed
from attestream.config import sections
from attestream.errors import AttestreamError
from attestream.telemetry import ENDPOINT_VARIABLE, METRICS
from devtools.docs.source import Source, markdown, read
from devtools.docs.text import code, page, table

ERROR_MODULES: Final = ("attestream.errors", "attestream.bus.jetstream", "attestream.client.commands")
"""Where errors with a code of their own are declared."""

_TYPES: Final = {
    bool: "true or false",
    str: "text",
    int: "integer",
    float: "number",
    Path: "path",
    config.DatabaseUrl: "URL",
    config.Webhook: "tables, see below",
}

_FINDINGS: Final = """\
A finding is one thing that appraisal found. Codes are stable. A `failure` always ends trust; a `warning` or an `info` never
does. Each finding names a culprit where there is one: a path, a PCR or an entry of the log.

Rules in the [`severities` of a policy](policies.md) change severities. None makes less of a finding that is *fixed* here:
without these checks nothing else would prove anything.

Findings whose code begins with `freshness.` are about challenges, not about the machine: evidence that can not be tied to a
live challenge is thrown away and leaves the standing as it is (event `refused`), and silence makes an agent
`unreachable`."""

_ERRORS: Final = """\
Each error has a stable code, for programs, and a message and a remedy, for people. They are the same in an answer on the bus
(`Refused`, `Outcome`), in a dead letter, and on the command line with `--json`. The last column says whether the same thing
may succeed later by itself; where it says no, a message that caused the error is not tried again."""

_METRICS: Final = f"""\
Services report metrics over OTLP when `{ENDPOINT_VARIABLE}` is set and the extra `attestream[telemetry]` is
installed. All are counters that start at 0 with the process. The other `OTEL_*` variables of OpenTelemetry have their usual
meaning."""

_CONFIGURATION: Final = f"""\
All services and the command line share one TOML file. They find it by `--config` or by the variable
`{config.CONFIG_VARIABLE}`. `attestream init` writes one into the data directory as `{config.FILE_NAME}`. Every section may
be left out, and so may every setting that has a default. An unknown setting is an error.

A variable `ATTESTREAM_<SECTION>_<KEY>` overrides a setting, for example `ATTESTREAM_VERIFIER_LEASE_FLOOR_S=60`. Text is
taken as it is; any other value is written as in TOML; a list of texts may also be given with commas. Empty text takes away a
file that has a default.

Relative paths, also those in `sqlite:///` URLs, are relative to the directory of the file, or to the working directory when
there is no file."""

_LAYERS: Final = {
    "identity": "Who sent the evidence.",
    "quote": "Whether the evidence is fresh and comes from the enrolled TPM.",
    "boot": "What the machine booted.",
    "runtime": "What has run since, by the IMA log.",
    "limits": "Who asks too much, and what fills up ([limits](limits.md)).",
}


def findings() -> str:
    """Return the page about findings."""
    blocks = [_FINDINGS]
    for layer, doc in _LAYERS.items():
        kinds = [kind for kind in FINDINGS.values() if kind.layer == layer]
        blocks += [f"## {layer.capitalize()}", doc]
        blocks.append(
            table(
                ("Code", "Severity", "Meaning", "What to do"),
                ((code(k.code), _severity(k), k.summary, k.remedy) for k in kinds),
            )
        )
    return page("Findings", *blocks)


def _severity(kind: Kind) -> str:
    return f"{kind.severity}, fixed" if is_fixed(kind.code) else kind.severity


def errors_page() -> str:
    """Return the page about errors."""
    rows = [
        (
            code(kind.code),
            "Something that was not foreseen." if kind is AttestreamError else markdown(kind.__doc__ or ""),
            kind.remedy,
            "no" if kind.permanent else "yes",
        )
        for kind in coded_errors()
    ]
    return page(
        "Errors",
        _ERRORS,
        table(("Code", "Meaning", "What to do", "May pass"), rows),
    )


def coded_errors() -> list[type[AttestreamError]]:
    """Return every error that has a code of its own, the base first."""
    found = []
    for name in ERROR_MODULES:
        module = importlib.import_module(name)
        for described in read(module).classes.values():
            kind = getattr(module, described.name)
            if issubclass(kind, AttestreamError) and "code" in vars(kind):
                found.append(kind)
    return found


def metrics() -> str:
    """Return the page about metrics."""
    return page(
        "Metrics",
        _METRICS,
        table(("Metric", "Unit", "Meaning"), ((code(metric.name), code(metric.unit), metric.doc) for metric in METRICS)),
    )


def configuration() -> str:
    """Return the page about settings."""
    source = read(sections)
    blocks = [_CONFIGURATION]
    for name, section in _sections():
        described = source.classes[section.__name__]
        blocks += [f"## {_heading(name)}", _sentence(described.doc), _settings(name, section, source)]
    return page("Configuration", *blocks)


def _sections() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(config.Config):
        yield field.name, field.type
        if field.name == "notifier":
            yield "notifier.webhooks", config.Webhook


def _heading(name: str) -> str:
    return f"`[[{name}]]`" if name == "notifier.webhooks" else f"`[{name}]`"


def _sentence(doc: str) -> str:
    _, _, meaning = markdown(doc).partition("`: ")
    return meaning[:1].upper() + meaning[1:]


def _settings(name: str, section: Any, source: Source) -> str:
    docs = {member.name: markdown(member.doc) for member in source.classes[section.__name__].members}
    hints = get_type_hints(section, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(section):
        # A list of tables can not be written in a variable.
        variable = code(f"ATTESTREAM_{name.upper()}_{field.name.upper()}") if "." not in name else ""
        rows.append((code(field.name), _type(hints[field.name]), _default(field), docs[field.name], variable))
    return table(("Setting", "Type", "Default", "Meaning", "Variable"), rows)


def _type(hint: Any) -> str:
    """Return what a setting takes, in words."""
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        return ", ".join((_type(arguments[0]), *(_bounds(meta) for meta in arguments[1:])))
    if get_origin(hint) is Literal:
        return " or ".join(code(f'"{value}"') for value in arguments)
    if get_origin(hint) is list:
        return f"list of {_type(arguments[0])}"
    if type(None) in arguments:
        return _type(arguments[0])
    return _TYPES[hint]


def _bounds(meta: msgspec.Meta) -> str:
    if meta.pattern is not None:
        return f"matches {code(meta.pattern)}"
    if meta.gt is not None:
        return f"above {meta.gt}, at most {meta.le}"
    return f"{meta.ge} to {meta.le}" if meta.ge is not None else f"at least {meta.min_length}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if value is msgspec.NODEFAULT:
        return "needed"
    return (
        "none"
        if value is None
        else code(msgspec.json.encode(str(value) if isinstance(value, Path | str) else value).decode())
    )
