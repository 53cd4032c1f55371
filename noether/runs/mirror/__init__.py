"""Mirror the checkpoints of a run to another store, and continue from there on a bare machine."""
