"""syncagent: keeps a backup MX's list of valid recipients in step with its sources."""

__version__ = "0.1.0"
DEFAULT_CONFIG = "/etc/syncagent/syncagent.toml"
"""The configuration file, unless --config or $SYNCAGENT_CONFIG names another."""
