"""Reading the configuration: the file, what the environment overrides, and paths made absolute."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from attestream.config.sections import Config, DatabaseUrl, Section
from attestream.errors import ConfigError

CONFIG_VARIABLE: Final = "ATTESTREAM_CONFIG"
"""Environment variable with the path of the configuration file."""

FILE_NAME: Final = "attestream.toml"
"""Name of the configuration file in a data directory."""

MAX_FILE_BYTES: Final = 1_048_576
"""Largest configuration file that is read, in bytes."""


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Return the configuration in ``path``, or the defaults for ``None``, overridden by ``environment``.

    :raises ConfigError: when the file can not be read, is not TOML, or a setting is unknown or has a wrong value.
    """
    document = _read(path) if path is not None else {}
    _override(document, environment)
    _clear(document)
    try:
        config = msgspec.convert(document, Config, strict=True, dec_hook=_from_text)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(error, path, environment)) from error
    return _anchored(config, (path.parent if path is not None else Path()).absolute())


def path_from(environment: Mapping[str, str]) -> Path | None:
    """Return the configuration file that ``ATTESTREAM_CONFIG`` names, if it does."""
    value = environment.get(CONFIG_VARIABLE, "")
    return Path(value) if value else None


def _read(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} has {size} bytes; a configuration has at most {MAX_FILE_BYTES}")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"can not read the configuration {path}: {error.strerror or error}",
            remedy="Give the right path, or make a configuration with `attestream init --data-dir DIR`.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for field in msgspec.structs.fields(Config):
        prefix = f"ATTESTREAM_{field.name.upper()}_"
        hints = get_type_hints(field.type)
        for variable in sorted(name for name in environment if name.startswith(prefix)):
            key = variable.removeprefix(prefix).lower()
            if key not in hints:
                raise ConfigError(f"{variable}: section `{field.name}` has no setting `{key}`")
            section = document.setdefault(field.name, {})
            if isinstance(section, dict):
                section[key] = _value(hints[key], environment[variable], variable)


def _clear(document: dict[str, Any]) -> None:
    """Turn empty text into the absence of a value where a setting may be absent: TOML has no null."""
    for field in msgspec.structs.fields(Config):
        section = document.get(field.name)
        if isinstance(section, dict):
            for key, hint in get_type_hints(field.type).items():
                if section.get(key) == "" and type(None) in get_args(hint):
                    section[key] = None


def _value(hint: Any, text: str, variable: str) -> Any:
    listed = hint in (list[str], list[Path])
    if listed and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if not listed and (hint in (str, Path, DatabaseUrl) or get_origin(hint) is Literal or Path in get_args(hint)):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{variable} is not a TOML value: {error}") from error


def _from_text(kind: type, value: Any) -> Any:
    if kind in (Path, DatabaseUrl) and isinstance(value, str):
        if not value:
            raise ValueError("Expected text that is not empty")
        return kind(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _explain(error: msgspec.ValidationError, path: Path | None, environment: Mapping[str, str]) -> str:
    what, _, place = str(error).partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    variable = f"ATTESTREAM_{where.replace('.', '_').upper()}"
    source = variable if variable in environment else str(path)
    setting = f"setting `{where}`: " if where else ""
    return f"{source}: {setting}{what[:1].lower()}{what[1:]}"


S = TypeVar("S", bound=Section)


def _anchored(section: S, base: Path) -> S:
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        anchored = _anchored_value(value, base)
        if anchored is not value:
            changes[field.name] = anchored
    return msgspec.structs.replace(section, **changes) if changes else section


def _anchored_value(value: Any, base: Path) -> Any:
    match value:
        case Path():
            return Path(os.path.normpath(base / value.expanduser()))
        case DatabaseUrl() if value.startswith("sqlite:///") and not value.startswith(("sqlite:////", "sqlite:///:memory:")):
            return DatabaseUrl(f"sqlite:///{base / value.removeprefix('sqlite:///')}")
        case Section():
            return _anchored(value, base)
        case list():
            return [_anchored_value(item, base) for item in value]
    return value
