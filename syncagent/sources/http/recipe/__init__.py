"""HTTP APIs described by recipes."""
