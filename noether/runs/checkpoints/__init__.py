"""Look at the checkpoints of a run, and export them."""
