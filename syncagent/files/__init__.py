"""File handling: sorted files of any size, pipelines of child processes over them, atomic writes of small files."""
