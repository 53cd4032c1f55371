"""`torchmetrics` keeps the contract of its role."""

from noether.testing import CallbackContract


class TestTorchMetrics(CallbackContract):
    config = {
        "kind": "torchmetrics",
        "every_n_epochs": 1,
        "dataset_key": "test",
        "metrics": {"y": [{"name": "MeanSquaredError"}, {"name": "PearsonCorrCoef", "num_outputs": 2}]},
    }
