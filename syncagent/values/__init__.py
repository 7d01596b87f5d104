"""Types of configuration values, for the ``Config`` of source kinds, and the conversion of TOML tables to them."""

from syncagent.values.cron import Cron
from syncagent.values.types import (
    INDEX_SUFFIX,
    VALUES,
    Address,
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
