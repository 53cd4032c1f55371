"""Optimizers of torch with parameter groups, clipping and schedules around them."""
