"""Data sets, their order, their transforms and the one loader that serves training and evaluation alike."""
