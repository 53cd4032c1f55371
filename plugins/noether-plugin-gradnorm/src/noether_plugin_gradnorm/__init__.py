"""A Noether plugin that logs the norm of the gradients."""
