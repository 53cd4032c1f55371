"""A Noether plugin for webdataset tar shards."""
