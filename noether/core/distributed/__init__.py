"""Facts about the ranks of a run; one process is rank 0 of 1."""
