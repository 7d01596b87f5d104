"""Values of the configuration, as a plug-in's Config may use them, and how a TOML table is read."""

from syncagent.values.types import (
    INDEX_SUFFIX,
    VALUES,
    Address,
    Cron,
    Domain,
    Duration,
    MapName,
    RecipeFile,
    SecretFile,
    Size,
    Urls,
    spell_seconds,
)

__all__ = [
    "INDEX_SUFFIX",
    "VALUES",
    "Address",
    "Cron",
    "Domain",
    "Duration",
    "MapName",
    "RecipeFile",
    "SecretFile",
    "Size",
    "Urls",
    "spell_seconds",
]
