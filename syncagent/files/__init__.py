"""Sorted files that grow with the number of recipients, and how a small file is replaced."""
