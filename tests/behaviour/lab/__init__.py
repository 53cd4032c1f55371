"""What a project brings to its runs: the code that the behaviour tests name by dotted paths."""
