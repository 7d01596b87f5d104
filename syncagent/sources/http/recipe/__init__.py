"""Source of addresses from an HTTP API, which a recipe describes."""
