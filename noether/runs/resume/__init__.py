"""Continue a run that exists."""
