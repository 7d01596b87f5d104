"""syncagent: an agent that keeps a backup MX's list of valid recipients in step with its sources."""

__version__ = "0.1.0"
DEFAULT_CONFIG = "/etc/syncagent/syncagent.toml"
"""Path of the configuration file, unless --config or $SYNCAGENT_CONFIG names another."""
