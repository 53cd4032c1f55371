"""Fields of a spec: look-up by path and by key, and their documentation."""
