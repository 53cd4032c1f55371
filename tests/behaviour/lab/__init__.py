"""Code of a project, which the behaviour tests name by dotted paths."""
