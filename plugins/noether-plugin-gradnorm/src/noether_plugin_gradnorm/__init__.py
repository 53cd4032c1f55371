"""A Noether plugin that watches the norm of the gradients."""
