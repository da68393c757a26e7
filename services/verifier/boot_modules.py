"""Boot policies of the operator's own, from modules that the configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from attestream.errors import ConfigError, PolicyError
from attestream.uefi.policy.policies import BootPolicy, with_modules


def load_boot_policies(names: Iterable[str]) -> dict[str, BootPolicy]:
    """Return the built-in boot policies and those of the modules ``names``, which are imported.

    :raises ConfigError: when a module can not be imported or has no boot policies.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except Exception as error:  # it is somebody's own code: whatever it raises, it can not be used
            raise ConfigError(f"boot_policy_modules: {name} can not be imported: {type(error).__name__}: {error}") from error
    try:
        return with_modules(*modules)
    except PolicyError as error:
        raise ConfigError(f"boot_policy_modules: {error.message}") from error
