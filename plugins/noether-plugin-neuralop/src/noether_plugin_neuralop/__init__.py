"""Neural operators for Noether: models and losses of neuraloperator, its data, and what shows their predictions."""
