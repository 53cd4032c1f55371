from noether.metrics.tracker import flatten_params


def test_every_value_stands_under_its_dotted_path():
    spec = {
        "name": "digits",
        "model": {"hidden": [128, 64], "optimizer": {"lr": 1e-3, "schedule": None}},
        "trainer": {"callbacks": [{"kind": "ema", "target_factors": [0.9]}, {"kind": "lr"}]},
    }
    assert flatten_params(spec) == {
        "name": "digits",
        "model.hidden": "[128, 64]",
        "model.optimizer.lr": "0.001",
        "trainer.callbacks.0.kind": "ema",
        "trainer.callbacks.0.target_factors": "[0.9]",
        "trainer.callbacks.1.kind": "lr",
    }


def test_an_empty_spec_has_no_parameters():
    assert flatten_params({}) == {}
