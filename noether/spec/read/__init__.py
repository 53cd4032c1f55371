"""Reading a spec: documents, layers, overrides, the environment."""
