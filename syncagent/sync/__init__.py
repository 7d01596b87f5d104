"""The steps of a run, from the sources to the published tables. Start with ``run.sync_once``."""
