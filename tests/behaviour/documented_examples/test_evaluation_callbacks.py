"""The examples of callbacks over a data set, with a test set whose last batch is smaller."""

import numpy as np
import pytest
import torch
from safetensors.torch import load

ACCURACY = {"kind": "lab.documented.callbacks.AccuracyCallback", "every_n_epochs": 1, "dataset_key": "test"}
DETAILED = {
    "kind": "lab.documented.callbacks.DetailedEvaluationCallback",
    "every_n_epochs": 1,
    "dataset_key": "test",
}
MODELS = ["lab.documented.models.Classifier", "lab.documented.models.PlainClassifier"]


def expected(weights):
    """Compute accuracy and mean norm of the embeddings from the saved weights, in double precision."""
    state = {name: tensor.double().numpy() for name, tensor in load(weights).items()}
    arrays = np.load("test.npz")
    embeddings = np.tanh(arrays["x"].astype("f8") @ state["embed.weight"].T + state["embed.bias"])
    logits = embeddings @ state["head.weight"].T + state["head.bias"]
    return (logits.argmax(axis=1) == arrays["label"]).mean(), np.linalg.norm(embeddings, axis=1).mean()


@pytest.mark.parametrize("model", MODELS)
def test_the_accuracy_is_that_of_the_whole_test_set(finish, classes, final_weights, model):
    classes["model"]["kind"] = model
    outcome = finish({"trainer.callbacks": [ACCURACY], "trainer.max_epochs": 5})
    accuracy, _ = expected(final_weights(outcome))
    assert outcome.metrics["test/accuracy"] == pytest.approx(accuracy)
    assert 0.25 < accuracy < 1.0, "a metric that is one or chance would hide mistakes"
    assert f"test/accuracy: {accuracy:.4f}\n" in (outcome.run_dir / "log.txt").read_text()


def test_the_accuracy_uses_the_test_set_by_default(finish, classes, final_weights):
    """The example's own default wins over the run's first data set, which is `train`."""
    outcome = finish({"trainer.callbacks": [{**ACCURACY, "dataset_key": None}], "trainer.max_epochs": 5})
    assert outcome.metrics["test/accuracy"] == pytest.approx(expected(final_weights(outcome))[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch_size", [1, 5, 13])
def test_the_outputs_of_a_detailed_evaluation_are_collected_one_by_one(
    finish, classes, final_weights, model, batch_size
):
    classes["model"]["kind"] = model
    outcome = finish({"trainer.callbacks": [{**DETAILED, "batch_size": batch_size}], "trainer.max_epochs": 5})
    accuracy, norm = expected(final_weights(outcome))
    assert outcome.metrics["accuracy"] == pytest.approx(accuracy)
    assert outcome.metrics["embedding_norm"] == pytest.approx(norm, rel=1e-5)


def test_both_evaluations_of_one_round_leave_the_training_as_it_is(finish, classes, final_weights):
    watched = finish({"trainer.callbacks": [ACCURACY, DETAILED]})
    alone = finish()
    assert final_weights(watched) == final_weights(alone)
    assert watched.metrics["accuracy"] == watched.metrics["test/accuracy"]


def test_the_evaluations_run_once_on_an_untrained_model(finish, classes):
    outcome = finish({"trainer.callbacks": [ACCURACY, DETAILED], "trainer.max_epochs": 0})
    torch.manual_seed(classes.get("seed", 0))
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(3, 5), "head": torch.nn.Linear(5, 4)})
    arrays = np.load("test.npz")
    embeddings = torch.tanh(model["embed"](torch.from_numpy(arrays["x"]).float()))
    assert outcome.metrics["embedding_norm"] == pytest.approx(embeddings.norm(dim=-1).mean().item(), rel=1e-5)
    right = model["head"](embeddings).argmax(dim=1) == torch.from_numpy(arrays["label"])
    assert outcome.metrics["test/accuracy"] == pytest.approx(right.float().mean().item())
