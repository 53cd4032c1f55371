"""The training loop, one job a file; internal to the trainers."""
