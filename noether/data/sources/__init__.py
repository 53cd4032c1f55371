"""The data sets that come with Noether."""
