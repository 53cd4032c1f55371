"""Trainers, the training loop, and the callbacks that need a trainer's train step."""
