"""File handling: sorted files of any size, child processes that process them, and atomic writes of small files."""
