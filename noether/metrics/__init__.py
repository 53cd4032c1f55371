"""Metrics: the log writer, the metrics file, and the feed that delivers them to trackers."""
