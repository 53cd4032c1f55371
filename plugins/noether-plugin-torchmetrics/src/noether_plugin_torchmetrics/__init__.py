"""A Noether plugin: any metric of torchmetrics as an evaluation callback."""
