"""`noether predict` and `noether.load_run(…).predict`: raw units in, raw units out."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from safetensors.torch import load_file, save_file

import noether
from noether.errors import DataError, SpecError, TrainingError
from noether.training.trainers.weighted_loss import WeightedLossTrainer

NORMALIZE = [{"kind": "normalize", "properties": ["x", "y_target"]}]
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]}
CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}
NEW = np.random.default_rng(1).normal(3, 20, size=(11, 3)).astype(np.float32)


@pytest.fixture
def trained(finish):
    """A run on normalised data."""
    return finish({"transforms": NORMALIZE, "trainer.callbacks": [CHECKPOINT, EMA]}, run_id="trained")


@pytest.fixture
def table_run(finish, tiny_spec, workplace):
    """A run on the columns of a csv file: whole numbers, fractions, names of its own, and one of no use."""
    rng = np.random.default_rng(2)
    load, span = rng.integers(1, 90, 60), rng.normal(5, 1, 60)
    columns = {"id": [f"p{n}" for n in range(60)], "load": load, "span": span, "stress": 1e6 + 1e4 * load * span}
    csv.write_csv(pa.table(columns), "beams.csv")
    properties = {"x": ["load", "span"], "stress_target": "stress"}
    data = {key: {"kind": "file", "path": "beams.csv", "split": key, "properties": properties} for key in PARTS}
    normalize = [{"kind": "normalize", "properties": ["x", "stress_target"]}]
    targets = {"trainer.target_properties": ["stress_target"], "trainer.field_weights": {"stress": 1.0}}
    tiny_spec["trainer"].pop("field_weights")
    return finish({"datasets": data, "transforms": normalize, **targets}, run_id="beams")


PARTS = ("train", "test")


@pytest.fixture
def predict(noether_command):
    """Predicts; returns what the command printed as JSON."""

    def call(run, *options):
        ended = noether_command("predict", run, *options, "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    return call


def by_hand(outcome, x, weights="model.safetensors", step=12):
    """Compute a prediction from the files of a checkpoint, without Noether."""
    folder = outcome.run_dir / f"checkpoints/step-{step:012}"
    w = {name: value.double() for name, value in load_file(folder / weights).items()}
    statistics = load_file(folder / "data.safetensors")
    (target,) = {name.split("/")[2] for name in statistics if name.split("/")[2].endswith("_target")}

    def of(name, kind):
        return statistics[f"transforms/0/{name}/{kind}"].double()

    prepared = (torch.as_tensor(x).double() - of("x", "shift")) / of("x", "scale")
    hidden = torch.nn.functional.gelu(prepared @ w["layers.0.weight"].T + w["layers.0.bias"])
    output = hidden @ w["layers.2.weight"].T + w["layers.2.bias"]
    return (output * of(target, "scale") + of(target, "shift")).float().numpy()


def write(path, arrays):
    if path.endswith(".npz"):
        np.savez(path, **arrays)
    elif path.endswith(".safetensors"):
        save_file({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    else:
        table = pa.table({f"{name}[{n}]": value[:, n] for name, value in arrays.items() for n in range(value.shape[1])})
        (csv.write_csv if path.endswith(".csv") else parquet.write_table)(table, path)


def read(path):
    if path.endswith(".npz"):
        with np.load(path) as file:
            return file["y"]
    if path.endswith(".safetensors"):
        return load_file(path)["y"].numpy()
    table = (csv.read_csv if path.endswith(".csv") else parquet.read_table)(path)
    return np.stack([table["y_target[0]"].to_numpy(), table["y_target[1]"].to_numpy()], 1)


# Files


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet", "csv"])
def test_predictions_are_in_the_units_of_the_data_in_every_format(trained, predict, suffix):
    write(f"new.{suffix}", {"x": NEW})
    found = predict("trained", "--data", f"new.{suffix}", "--out", f"out/predicted.{suffix}")
    np.testing.assert_allclose(read(f"out/predicted.{suffix}"), by_hand(trained, NEW), rtol=2e-5)
    assert (found["checkpoint"], found["samples"], found["inputs"]) == ("E2_U12_S96", 11, ["x"])


def test_a_csv_has_the_columns_of_training_and_the_prediction_that_of_the_target(table_run, noether_command):
    new = {"span": np.array([4.5, 5.5]), "name": np.array(["a", "b"]), "load": np.array([12.5, 80.0])}
    csv.write_csv(pa.table(new), "new.csv")
    ended = noether_command("predict", "beams", "--data", "new.csv", "--out", "predicted.csv")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[1:] == ["wrote stress for 2 samples to predicted.csv", "ignored: name"]
    table = csv.read_csv("predicted.csv")
    assert table.column_names == ["stress"]
    wanted = by_hand(table_run, np.stack([new["load"], new["span"]], 1), step=12)
    np.testing.assert_allclose(table["stress"].to_numpy(), wanted[:, 0], rtol=1e-6)


def test_the_field_is_the_key_where_a_file_has_no_columns(table_run, predict):
    np.savez("new.npz", x=np.ones((3, 2)))
    predict("beams", "--data", "new.npz", "--out", "predicted.npz")
    with np.load("predicted.npz") as file:
        assert (file.files, file["stress"].shape) == (["stress"], (3,))


def test_every_missing_column_is_named_and_nothing_is_written(table_run, noether_command, workplace):
    csv.write_csv(pa.table({"Load": [1.0]}), "new.csv")
    ended = noether_command("predict", "beams", "--data", "new.csv", "--out", "predicted.csv")
    assert ended.code == 2
    assert "found Load, expected load, span" in ended.err
    assert not (workplace / "predicted.csv").exists()


def test_neither_labels_nor_the_data_of_the_run_are_needed(trained, predict, workplace):
    for name in PARTS:
        (workplace / f"{name}.npz").unlink()
    np.savez("new.npz", x=NEW)
    predict(trained.run_dir, "--data", "new.npz", "--out", "predicted.npz")
    np.testing.assert_allclose(read("predicted.npz"), by_hand(trained, NEW), rtol=2e-5)


def test_the_size_of_batches_changes_nothing(trained, predict):
    np.savez("new.npz", x=NEW)
    for size in ("1", "4", "100"):
        predict("trained", "--data", "new.npz", "--out", f"{size}.npz", "--batch-size", size)
        np.testing.assert_allclose(read(f"{size}.npz"), by_hand(trained, NEW), rtol=2e-5)


def test_a_checkpoint_and_its_averages_can_be_chosen(trained, predict):
    np.savez("new.npz", x=NEW)
    found = predict("trained", "--data", "new.npz", "--out", "a.npz", "--checkpoint", "E1_U6_S48", "--ema", "0.5")
    assert found["checkpoint"] == "E1_U6_S48.ema=0.5"
    wanted = by_hand(trained, NEW, weights="callbacks/ema/0.5.safetensors", step=6)
    np.testing.assert_allclose(read("a.npz"), wanted, rtol=2e-5)


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_a_property_of_one_listed_column_is_taken_with_and_without_its_dimension(finish, predict, shape):
    column = np.random.default_rng(3).normal(size=60).astype(np.float32)
    np.savez("columns.npz", x=column, y_target=column * 2)
    table = {"kind": "file", "path": "columns.npz", "properties": {"x": ["x"], "y_target": ["y_target"]}}
    finish({"datasets": {"train": table, "test": table}}, run_id="listed")
    np.savez("new.npz", x=column.reshape(shape))
    predict("listed", "--data", "new.npz", "--out", "predicted.npz")
    np.testing.assert_array_equal(
        read("predicted.npz"), noether.load_run("listed").predict({"x": column[:, None]})["y"]
    )


BAD_TABLES = {
    "größe,x\n1,2\n".encode("latin-1"): "a csv is UTF-8",
    b"a;x\n1,5;2,5\n1,5;2,5\n": "expected x[0], x[1], x[2]",
    b"x[0],x[1],x[2]\n": "no samples",
}


def test_a_table_that_cannot_be_read_says_what_a_table_is(trained, noether_command, workplace):
    for content, told in BAD_TABLES.items():
        (workplace / "new.csv").write_bytes(content)
        ended = noether_command("predict", "trained", "--data", "new.csv", "--out", "predicted.csv")
        assert (ended.code, ended.out) == (2, "")
        assert told in ended.err


def test_a_pipe_is_not_said_to_be_missing_and_a_file_is_no_folder(trained, noether_command, workplace):
    os.mkfifo("new.csv")
    np.savez("new.npz", x=NEW)
    for options, told in (("new.csv --out out.csv", "is a pipe"), ("new.npz --out new.npz/out.csv", "is a file")):
        ended = noether_command("predict", "trained", "--data", *options.split())
        assert ended.code == 2
        assert told in ended.err


def test_a_prediction_that_is_not_finite_is_told(trained, noether_command):
    np.savez("new.npz", x=np.array([[1, np.nan, 3], [1, 2, 3]], dtype=np.float32))
    ended = noether_command("predict", "trained", "--data", "new.npz", "--out", "predicted.npz")
    assert (ended.code, ended.err) == (0, "note: not finite: y of 1 sample\n")


MISTAKES = {
    "--data new.npz --out train.npz": 2,
    "--data new.npz --out predicted.txt": 2,
    "--data gone.npz --out predicted.npz": 2,
    "--data empty.csv --out predicted.npz": 2,
    "--data flat.npz --out predicted.npz": 2,
    "--data narrow.npz --out predicted.npz": 2,
    "--data wide.npz --out predicted.npz": 2,
    "--data new.npz --out predicted.npz --like tset": 2,
    "--data new.npz --out predicted.npz --ema 0.9": 3,
    "--data new.npz --out predicted.npz --checkpoint first": 3,
}


def test_a_mistake_is_one_error_and_leaves_no_file(trained, noether_command, workplace):
    arrays = {"new": NEW, "flat": NEW[:, 0], "narrow": NEW[:, :1], "wide": np.ones((4, 5), np.float32)}
    for name, array in arrays.items():
        np.savez(f"{name}.npz", x=array)
    (workplace / "empty.csv").write_text("x[0],x[1],x[2]\n")
    for options, code in MISTAKES.items():
        ended = noether_command("predict", "trained", *options.split())
        assert (ended.code, ended.out) == (code, ""), (options, ended)
        assert ended.err.startswith("error")
        assert "Traceback" not in ended.err
        assert not list(workplace.glob("*predicted*"))


# Transforms of one's own


def spec_with(kind):
    return {
        "transforms": [{"kind": f"lab.transforms.{kind}"}],
        "datasets.train.transforms": [],
        "trainer.callbacks": [CHECKPOINT],
    }


@pytest.fixture
def positive(workplace):
    """Data with labels that have a logarithm."""
    for name in PARTS:
        with np.load(f"{name}.npz") as file:
            arrays = {"x": file["x"], "y_target": np.exp(file["y_target"])}
        np.savez(f"{name}.npz", **arrays)


def test_a_transform_of_the_target_is_inverted_although_no_label_is_there(lab, tiny_spec, positive, finish):
    run = noether.load_run(finish(spec_with("Log")).run_dir)
    raw = run.model(x=torch.from_numpy(NEW))["y"].exp()
    np.testing.assert_allclose(run.predict({"x": NEW})["y"], raw.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "named"), [("LogForEver", "lab.transforms.LogForEver"), ("Centered", "expected y_target")]
)
def test_a_prediction_that_could_not_be_right_is_refused(lab, tiny_spec, positive, finish, kind, named):
    run = noether.load_run(finish(spec_with(kind)).run_dir)
    with pytest.raises(DataError) as caught:
        run.predict({"x": NEW})
    assert named in str(caught.value)


def test_a_property_that_decides_others_beyond_a_threshold_only_is_needed(lab, finish):
    for name in PARTS:
        with np.load(f"{name}.npz") as file:
            np.savez(f"{name}.npz", **file, regime=np.arange(len(file["x"])) % 5)
    run = noether.load_run(finish({"transforms": [{"kind": "lab.transforms.Regime"}]}).run_dir)
    with pytest.raises(DataError) as caught:
        run.predict({"x": NEW})
    assert "expected regime" in str(caught.value)
    assert run.predict({"x": NEW, "regime": np.arange(11)})["y"].shape == (11, 2)


def test_one_tensor_is_the_only_field_that_has_a_weight_whatever_other_targets_are_listed(lab, finish):
    for name in PARTS:
        with np.load(f"{name}.npz") as file:
            np.savez(f"{name}.npz", **file, mask=np.ones((len(file["x"]), 1), bool))
    spec = {"model": {"kind": "lab.models.Bare", "optimizer": "SGD"}, "transforms": NORMALIZE}
    run = noether.load_run(finish({**spec, "trainer.target_properties": ["y_target", "mask"]}).run_dir)
    other = noether.load_run(finish(spec).run_dir)
    np.testing.assert_array_equal(run.predict({"x": NEW})["y"], other.predict({"x": NEW})["y"])


def test_outputs_that_are_no_field_are_not_taken_for_physical_units(trained, monkeypatch):
    run = noether.load_run("trained")
    monkeypatch.setattr(type(run.predictor()), "_outputs", lambda *_: ({"u": torch.ones(11, 2)}, 0))
    with pytest.raises(TrainingError) as caught:
        run.predict({"x": NEW})
    assert "found u, expected one of y" in str(caught.value)


def test_a_trainer_that_evaluates_more_than_the_model_is_not_passed_over(trained, monkeypatch):
    monkeypatch.setattr(WeightedLossTrainer, "forward", lambda self, batch, model: model(x=batch["x"] * 2))
    with pytest.raises(SpecError) as caught:
        noether.load_run("trained").predict({"x": NEW})
    assert "'weighted-loss' has a forward of its own" in str(caught.value)


def test_augmentation_of_the_training_set_is_not_applied_and_units_of_the_other_are(lab, finish):
    kilo = {"kind": "lab.transforms.Kilo"}
    tables = {
        "datasets.train.transforms": [{"kind": "lab.transforms.Jitter"}],
        "datasets.test.transforms": [kilo],
    }
    run = noether.load_run(finish({**tables, "transforms": NORMALIZE}, run_id="trained").run_dir)
    wanted = by_hand(run, NEW / 1000) * 1000
    np.testing.assert_allclose(run.predict({"x": NEW})["y"], wanted, rtol=1e-4, atol=0.02)


# Python


def test_a_sample_and_a_batch_and_arrays_and_tensors_are_taken(trained):
    run = noether.load_run("trained")
    wanted = by_hand(trained, NEW)
    batch, one = run.predict({"x": NEW}), run.predict({"x": NEW[0].tolist()})
    assert isinstance(batch["y"], np.ndarray)
    np.testing.assert_allclose(batch["y"], wanted, rtol=2e-5)
    assert one["y"].shape == (2,)
    np.testing.assert_allclose(one["y"], wanted[0], rtol=2e-5)
    assert torch.equal(run.predict({"x": torch.from_numpy(NEW).double()})["y"], torch.from_numpy(batch["y"]))
    assert not np.array_equal(run.predict({"x": NEW, "note": ["any"]}, ema=0.5)["y"], batch["y"])


WRONG = [
    ({}, "found none, expected x"),
    ({"X": NEW}, "found X, expected x"),
    ([{"x": NEW[0]}], "found list, expected a dict by property"),
    ({"x": NEW[:, :1]}, "found (11, 1), expected (batch, 3)"),
    ({"x": NEW[None]}, "found (1, 11, 3), expected (batch, 3)"),
    ({"x": np.ones((4, 5))}, "(3,)"),
    ({"x": "many"}, "found <U4"),
    ({"x": [[1, 2], [3, 4, 5]]}, "one at a time"),
    ({"x": NEW[:0]}, "found 0"),
]


def test_wrong_inputs_are_named_with_their_shapes(trained):
    run = noether.load_run("trained")
    for given, told in WRONG:
        with pytest.raises(DataError) as caught:
            run.predict(given)
        assert told in str(caught.value)


def test_predictions_leave_generators_and_modes_as_they_were(trained):
    run = noether.load_run("trained")
    before = torch.get_rng_state()
    run.predict({"x": NEW})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
