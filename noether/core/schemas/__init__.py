"""The words of a spec: pydantic configs that every component's own config builds on. None needs torch."""
