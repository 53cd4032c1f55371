"""The values of metrics over a data set, and the keys that they are logged under."""

import json
from typing import Any

import pytest
import torch
from torchmetrics.functional import spearman_corrcoef

import noether
from noether.errors import TrainingError
from noether.testing import make_callback, make_counter, make_data, make_trainer

DIGITS = {
    "datasets": {"train": {"kind": "digits", "part": None}, "test": {"kind": "digits", "split": "test", "part": None}},
    "model": {"out_features": {"y": None, "label": 10}},
}
OF_DIGITS = {
    "forward_properties": ["image"],
    "target_properties": ["label_target"],
    "field_weights": {"y": None, "label": 1.0},
    "loss_fn": "cross-entropy",
    "effective_batch_size": 256,
    "max_updates": 4,
}


def compares(metrics: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    return {"kind": "torchmetrics", "every_n_updates": 4, "dataset_key": "test", "metrics": metrics, **more}


def classes(name: str, **more: Any) -> dict[str, Any]:
    return {"name": f"Multiclass{name}", "num_classes": 10, **more}


def test_errors_are_in_the_units_of_the_data_as_those_of_offline_metrics(tiny_run):
    ours = compares({"y": [{"name": "MeanSquaredError", "squared": False}, {"name": "MeanAbsoluteError", "key": "l1"}]})
    built_in = {**ours, "kind": "offline-metrics", "metrics": {"y": ["rmse", "mae"]}}
    transforms = [{"kind": "normalize", "properties": ["x", "y_target"]}]
    metrics = tiny_run(transforms=transforms, trainer={"callbacks": [ours, built_in]}).metrics
    assert metrics["mean-squared-error/test/y"] == pytest.approx(metrics["rmse/test/y"], rel=1e-6)
    assert metrics["l1/test/y"] == pytest.approx(metrics["mae/test/y"], rel=1e-6)


def test_a_metric_sees_the_whole_data_set(tiny_run):
    ranks = compares({"y": [{"name": "SpearmanCorrCoef", "num_outputs": 2, "key": "ranks"}]}, batch_size=3)
    outcome = tiny_run(trainer={"callbacks": [ranks]})
    samples = make_data().get_dataset("test")
    x, target = (torch.stack([samples[index][name] for index in range(len(samples))]) for name in ("x", "y_target"))
    predicted = torch.as_tensor(noether.load_run(outcome.run_dir).predict({"x": x.numpy()})["y"])
    expected = spearman_corrcoef(predicted, target)
    assert [outcome.metrics[f"ranks/test/y/{index}"] for index in (0, 1)] == pytest.approx(expected.tolist(), rel=1e-5)


def test_metrics_of_classes_do_not_depend_on_the_size_of_a_batch(tiny_run):
    metrics = [classes("AUROC"), classes("Accuracy", average="micro"), classes("Recall", average="none")]
    large = compares({"label": metrics})
    small = compares({"label": [{**each, "key": f"small-{each['name']}"} for each in metrics]}, batch_size=7)
    matrix = compares({"label": [classes("ConfusionMatrix", key="confusion")]})
    built_in = {**large, "kind": "offline-metrics", "metrics": {"label": ["accuracy"]}}
    outcome = tiny_run(**DIGITS, trainer={**OF_DIGITS, "callbacks": [large, small, matrix, built_in]})
    found = outcome.metrics
    assert found["multiclass-accuracy/test/label"] == pytest.approx(found["accuracy/test/label"])
    assert found["multiclass-auroc/test/label"] == pytest.approx(found["small-MulticlassAUROC/test/label"], rel=1e-5)
    for number in range(10):
        entry = found[f"multiclass-recall/test/label/{number}"]
        assert entry == pytest.approx(found[f"small-MulticlassRecall/test/label/{number}"])
    assert "confusion/test/label" in (outcome.run_dir / "nonscalars.jsonl").read_text()


def test_the_best_checkpoint_follows_a_metric_in_the_direction_of_torchmetrics(tiny_run):
    kappa = compares({"label": [classes("CohenKappa", key="kappa")]}, every_n_updates=1)
    best = {"kind": "best-checkpoint", "metric_key": "kappa/test/label", "every_n_updates": 1}
    outcome = tiny_run(
        **DIGITS, trainer={**OF_DIGITS, "callbacks": [kappa, best]}, expect={"best/kappa/test/label": {"min": 0}}
    )
    values = [line["kappa/test/label"] for line in lines(outcome) if "kappa/test/label" in line]
    assert outcome.metrics["kappa/test/label/best"] == max(values)


def test_only_valid_points_of_a_padded_batch_count(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.has_masks = True
    callback = make_callback(compares({"y": [{"name": "MeanAbsoluteError"}]}), trainer)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    target = torch.zeros(2, 3, 1)
    output = torch.where(mask.unsqueeze(2), 1.0, 100.0)
    batch = {"x": torch.zeros(2, 3), "y_target": target, "mask": mask}
    callback.process_data(batch, trainer_model=lambda x: {"y": output})
    callback.process_results(None)
    assert trainer.log_writer.current("mean-absolute-error/test/y") == 1.0
    with pytest.raises(TrainingError, match="each point"):
        callback.process_data(batch, trainer_model=lambda x: {"y": torch.zeros(2, 1)})


def test_an_interrupted_pass_leaves_nothing_in_the_next_one(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = make_callback(compares({"y": [{"name": "MeanAbsoluteError"}]}), trainer)
    far = {"x": torch.zeros(4, 3), "y_target": torch.full((4, 2), 100.0)}
    callback.process_data(far, trainer_model=lambda x: {"y": torch.zeros(4, 2)})
    near = [{"x": torch.zeros(10, 3), "y_target": torch.ones(10, 2)}]
    model = Zeros()
    for _ in range(2):
        callback.periodic_callback(
            interval_type="eval",
            update_counter=make_counter(),
            data_iter=iter(near),
            trainer_model=model,
            batch_size=10,
        )
        assert trainer.log_writer.current("mean-absolute-error/test/y") == 1.0


class Zeros(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.zeros(len(x), 2)}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"z": torch.zeros(4, 2)}, "expected output 'y' and property 'y_target'"),
        ({"y": torch.zeros(4, 3)}, r"'mean-absolute-error' of 'y' fails, output \(4, 3\), target \(4, 2\)"),
    ],
)
def test_an_output_that_does_not_fit_is_named(tmp_path, output, message):
    callback = make_callback(compares({"y": [{"name": "MeanAbsoluteError"}]}), make_trainer(tmp_path))
    batch = {"x": torch.zeros(4, 3), "y_target": torch.zeros(4, 2)}
    with pytest.raises(TrainingError, match=message):
        callback.process_data(batch, trainer_model=lambda x: output)


def lines(outcome: Any) -> list[dict[str, Any]]:
    text = (outcome.run_dir / "metrics.jsonl").read_text()
    return [json.loads(line)["metrics"] for line in text.splitlines()]
