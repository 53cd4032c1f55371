"""A Noether plugin for data sets of Hugging Face `datasets`."""
