"""The configuration: :mod:`attestream.config.sections` declares it, :mod:`attestream.config.loading` reads it."""

from attestream.config.loading import CONFIG_VARIABLE, FILE_NAME, MAX_FILE_BYTES, load, path_from
from attestream.config.sections import (
    ROSTER_MAX_AGE_S,
    AgentConfig,
    BusConfig,
    Config,
    DatabaseUrl,
    LimitsConfig,
    LogConfig,
    NotifierConfig,
    RegistrarConfig,
    RetentionConfig,
    Section,
    TrustConfig,
    VerifierConfig,
    Webhook,
)

__all__ = [
    "CONFIG_VARIABLE",
    "FILE_NAME",
    "MAX_FILE_BYTES",
    "ROSTER_MAX_AGE_S",
    "AgentConfig",
    "BusConfig",
    "Config",
    "DatabaseUrl",
    "LimitsConfig",
    "LogConfig",
    "NotifierConfig",
    "RegistrarConfig",
    "RetentionConfig",
    "Section",
    "TrustConfig",
    "VerifierConfig",
    "Webhook",
    "load",
    "path_from",
]
