"""The state directory: database, snapshots, lists and history."""
