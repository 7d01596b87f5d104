"""The configuration: its tables, how they are loaded and validated."""
