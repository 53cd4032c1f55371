"""The callbacks that a run has without asking."""
