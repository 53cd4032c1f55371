"""A Noether plugin: The callback `gradient-noise`."""
