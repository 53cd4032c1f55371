"""Checkpoints: folders on disk that exist completely or not at all, their names and their retention."""
