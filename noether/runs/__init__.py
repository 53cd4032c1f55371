"""A run: from a spec to an assembled trainer, a run folder and an outcome."""
