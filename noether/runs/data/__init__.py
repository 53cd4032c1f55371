"""Data sets of a spec, summed up for a person to look at."""
