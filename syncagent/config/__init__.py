"""The configuration: its tables, their loading and validation, and their JSON Schema."""
