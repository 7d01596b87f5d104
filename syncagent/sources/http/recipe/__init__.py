"""An HTTP API described by a recipe."""
