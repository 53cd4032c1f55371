"""Schedules: pure functions from the completed updates to a factor on the learning rate."""
