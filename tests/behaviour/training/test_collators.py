"""Batches of samples of different sizes, and of other types than dicts, through a whole run."""

from pathlib import Path

import pytest
import tomli_w
import torch

import noether

CLOUDS = {
    "datasets": {key: {"kind": "lab.batches.Clouds"} for key in ("train", "test")},
    "model": {"kind": "lab.batches.Pointwise", "optimizer": {"kind": "SGD", "lr": 0.1}},
    "trainer.effective_batch_size": 5,
    "trainer.loss_fn": "mse",
    "trainer.callbacks": [
        {"kind": kind, "every_n_epochs": 1, "dataset_key": "test", **options}
        for kind, options in (("offline-loss", {}), ("offline-metrics", {"metrics": {"y": ["rmse"]}}))
    ],
}


def clouds(collate=None, *, properties=("x",), **options):
    table = {"kind": "lab.batches.Clouds", **options} | ({"collate": collate} if collate else {})
    return CLOUDS | {"datasets": {"train": table, "test": table}, "trainer.forward_properties": list(properties)}


@pytest.mark.parametrize("collate", ["pad", {"kind": "pad", "properties": ["x", "y_target"], "value": 0.0}])
@pytest.mark.parametrize("workers", [0, 1])
def test_padded_batches_train_with_a_mask(finish, lab, collate, workers):
    outcome = finish(clouds(collate, properties=("x", "mask")) | {"loader.num_workers": workers})
    assert outcome.metrics["rmse/test/y"] > 0


def test_a_loss_of_valid_points_has_the_mask_and_its_options_whatever_the_size_of_a_batch(finish, lab):
    loss = {"kind": "lab.losses.of_points", "power": 2.0}
    settings = clouds("pad", properties=("x", "mask"), samples=15) | {"trainer.max_epochs": 1}
    whole = finish(settings | {"trainer.loss_fn": "mse"}).metrics
    parts = finish(settings | {"trainer.loss_fn": loss, "trainer.max_batch_size": 1}).metrics
    for key in ("loss/online/total", "loss/test/total", "rmse/test/y"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-5)


def test_a_loss_of_valid_points_is_refused_for_batches_without_a_mask(noether_command, tiny_spec, lab):
    tiny_spec["trainer"]["loss_fn"] = "lab.losses.of_points"
    lab.parent.joinpath("unpadded.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec}))
    ended = noether_command("check", "unpadded.toml", "--deep")
    assert ended.code == 2
    assert "forward-failed" in ended.err
    assert "default None" in ended.err


def test_concatenated_batches_train_with_an_index(finish, lab):
    outcome = finish(clouds("concat", properties=("x", "batch_index")))
    assert outcome.metrics["rmse/test/y"] > 0


def test_samples_of_different_sizes_without_a_collator_are_an_error_that_says_what_to_type(run, lab):
    outcome = run(clouds())
    assert outcome.status == "FAILED"
    assert 'collate = "pad"' in outcome.error.hint
    assert any("the data set 'train'" in note for note in outcome.error.__notes__)


@pytest.mark.parametrize("kind", ["fields", "tuples", "movables"])
def test_a_batch_may_be_an_object(finish, lab, final_weights, kind):
    plain = finish(clouds(points=4))
    other = finish(clouds(f"lab.batches.{kind}", points=4))
    assert final_weights(other) == final_weights(plain)
    for key in ("loss/test/total", "rmse/test/y"):
        assert other.metrics[key] == plain.metrics[key]


@pytest.mark.parametrize("kind", ["fields", "tuples", "movables"])
def test_a_model_that_is_trained_on_objects_predicts(finish, lab, kind):
    run = noether.load_run(finish(clouds(f"lab.batches.{kind}", points=4)).run_dir)
    x = torch.linspace(0, 1, 12).reshape(1, 4, 3)
    with torch.no_grad():
        expected = run.model(x=x)
    torch.testing.assert_close(run.predict({"x": x})["y"], expected, rtol=0, atol=0)


def test_stack_by_name_is_the_run_without_a_collator(finish, final_weights):
    assert final_weights(finish({"datasets.train.collate": "stack"})) == final_weights(finish())


def test_a_collator_replaces_gathered_batches_in_training_and_evaluation(finish, lab, final_weights):
    plain = finish()
    same = finish({"datasets.train.collate": {"kind": "lab.batches.doubled", "factor": 1.0}})
    other = finish({"datasets.train.collate": "lab.batches.doubled"})
    assert final_weights(same) == final_weights(plain)
    assert final_weights(other) != final_weights(plain)


def test_the_mean_loss_of_a_pass_counts_samples_and_not_points(finish, lab, monkeypatch):
    by_one = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "batch_size": 1}
    by_five = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "batch_size": 5}
    spec = clouds("concat", points=3) | {"trainer.loss_fn": "mse"}
    one, five = (finish(spec | {"trainer.callbacks": [callback]}) for callback in (by_one, by_five))
    assert one.metrics["loss/test/total"] == pytest.approx(five.metrics["loss/test/total"], rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("torch.load", 2),
        ("torch.hub.load", 2),
        ("os.system", 2),
        ("lab.batches.Fields", 2),
        ("lab.losses.huber", 2),
        ("padd", 2),
    ],
)
def test_other_kinds_are_refused_by_check(noether_command, lab, kind, code):
    spec = f"""
        spec = 1
        [datasets.train]
        kind = "lab.batches.Clouds"
        collate = "{kind}"
        [model]
        kind = "lab.batches.Pointwise"
        optimizer = {{ kind = "SGD", lr = 0.1 }}
        [trainer]
        kind = "weighted-loss"
        max_epochs = 1
        effective_batch_size = 4
        forward_properties = ["x"]
        target_properties = ["y_target"]
        field_weights = {{ y = 1.0 }}
    """
    lab.parent.joinpath("clouds.toml").write_text(spec)
    ended = noether_command("check", "clouds.toml")
    assert ended.code == code
    assert kind.rpartition(".")[2] in ended.err
    assert "Traceback" not in ended.err


def test_check_knows_the_properties_that_a_collator_adds(noether_command, tiny_spec):
    tiny_spec["datasets"]["train"] |= {"collate": "pad", "properties": {"x": "x", "y_target": "y_target"}}
    for name, code in (("mask", 0), ("mesk", 2)):
        tiny_spec["trainer"]["forward_properties"] = ["x", name]
        Path("mask.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec}))
        assert noether_command("check", "mask.toml").code == code


@pytest.mark.parametrize(
    ("collate", "properties"),
    [
        ("pad", ("x", "mask")),
        ("concat", ("x", "batch_index")),
        ("lab.batches.fields", ("x",)),
        ("lab.batches.tuples", ("x",)),
        ("lab.batches.movables", ("x",)),
    ],
)
def test_predictions_take_samples_of_every_size_through_every_collator(finish, lab, collate, properties):
    points = 4 if collate.startswith("lab") else None
    normalize = {"transforms": [{"kind": "normalize", "properties": ["x", "y_target"]}]}
    run = noether.load_run(finish(clouds(collate, properties=properties, points=points) | normalize).run_dir)
    layer, data = run.model.layer, run.predictor().inputs.data
    for size in (4,) if points else (2, 3, 9):
        x = torch.rand(3, size, 3, dtype=torch.float64)
        wanted = data.inverse(
            "y_target", layer(data.transforms("test")[0]({"x": x.float(), "y_target": x[..., :2]})["x"])
        )
        for given, expected in ((x, wanted), (x[1], wanted[1])):
            torch.testing.assert_close(run.predict({"x": given})["y"], expected.detach())


def test_a_program_of_samples_of_different_sizes_is_refused(finish, lab, noether_command):
    run = finish(clouds("pad", properties=("x", "mask")))
    ended = noether_command("checkpoint", "export", run.run_dir, "--format", "torch-export")
    assert ended.code == 2
    assert "samples of one size" in ended.err
