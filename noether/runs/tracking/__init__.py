"""Feed the trackers of a run."""
