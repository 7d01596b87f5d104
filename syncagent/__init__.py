"""syncagent: keeps a backup MX's list of valid recipients in step with where the truth lives."""

__version__ = "0.1.0"
