"""Metrics and results: the log writer, their files, and the feed that delivers them to trackers."""
