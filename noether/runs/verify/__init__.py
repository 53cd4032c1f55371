"""Compare a run that was interrupted with one that was not."""
