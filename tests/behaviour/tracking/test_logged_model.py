"""The trained model and the description of whole runs in MLflow."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import noether

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

CALLBACKS = [
    {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
    {"kind": "checkpoint", "every_n_epochs": 1},
]
NORMALIZED = [{"kind": "normalize", "properties": ["x", "y_target"]}]

LOADED = """
import json, sys
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
x = np.array(json.loads(sys.argv[2]), "float32")
of_dict = model.predict({"x": x})
of_frame = model.predict(pd.DataFrame({"x": list(x)}))
print(json.dumps([of_dict["y"].tolist(), of_frame["y"].tolist(), str(model.metadata.signature)]))
"""


@pytest.fixture
def trained(database, tiny_spec, run):
    """Runs the tiny spec with MLflow; returns the outcome, MLflow's client and its run."""

    def train(changes=None, **table):
        from mlflow import MlflowClient

        trackers = [{"kind": "mlflow", "report": False, **table}]
        fixed = {"trackers": trackers, "trainer.callbacks": CALLBACKS, "transforms": NORMALIZED}
        outcome = run({**fixed, **(changes or {})})
        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        experiment = client.get_experiment_by_name((changes or {}).get("name", "tiny")).experiment_id
        (found,) = client.search_runs([experiment], max_results=1)
        return outcome, client, found

    return train


def test_the_logged_model_predicts_in_physical_units_in_another_process(trained, tmp_path, capfd):
    outcome, client, run = trained({"name": "tiny.v2"}, log_model=True, register_as="tiny-model")
    assert outcome.status == "FINISHED"
    assert "artifacts" not in capfd.readouterr().err  # MLflow's progress bars would stand in the run's output
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, str(model.status), output.step) == ("tiny_v2", "READY", 12)
    (version,) = client.search_model_versions("name = 'tiny-model'")
    assert output.model_id in version.source

    x = np.full((2, *noether.load_run(outcome.run_dir).predictor().inputs.properties["x"].shape), 0.5, "float32")
    folder = model.artifact_location.removeprefix("file://")
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED, folder, str(x.tolist())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr

    of_dict, of_frame, signature = json.loads(loaded.stdout)
    expected = noether.load_run(outcome.run_dir).predict({"x": x})["y"]
    np.testing.assert_allclose(of_dict, expected, rtol=1e-6)
    assert of_dict == of_frame
    assert "'x': Tensor('float32', (-1," in signature and "'y': Tensor('float32', (-1," in signature
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert {"MLmodel", "served_model.py", "requirements.txt", "model.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".bin") or zipfile.is_zipfile(path)]
    assert "noether-train==" in (Path(folder) / "requirements.txt").read_text()


def test_the_logged_model_of_a_table_takes_and_returns_its_columns(trained):
    import mlflow
    import pandas as pd

    width = np.arange(1, 41)
    beams = pd.DataFrame({"width": width, "wood": np.where(width % 2, "oak", "fir"), "zone": width % 3})
    beams.assign(sag=width * 0.5).to_csv("beams.csv", index=False)
    table = {
        "kind": "file",
        "path": "beams.csv",
        "properties": {"size": ["width"], "kinds": ["wood", "zone"], "y_target": "sag"},
        "categories": {"wood": ["oak", "fir"], "zone": ["0", "1", "2"]},
    }
    changes = {
        "datasets": {"train": table, "test": table},
        "transforms": [{"kind": "normalize", "properties": ["size", "y_target"]}],
        "trainer.forward_properties": ["size", "kinds"],
    }
    outcome, client, run = trained(changes, log_model=True)
    (output,) = run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(client.get_logged_model(output.model_id).artifact_location)
    known = [column.name for column in model.metadata.signature.inputs]
    assert known == ["width", "wood", "zone"]

    properties = {
        "size": width[:, None],
        "kinds": np.eye(5)[np.stack([width % 2 == 0, width % 3 + 2], 1).astype(int)].sum(1),
    }
    expected = noether.load_run(outcome.run_dir).predict(properties)["y"]
    found = model.predict(beams)
    np.testing.assert_allclose(found["sag"], expected.ravel(), rtol=1e-5)
    of_dict = model.predict({name: list(beams[name]) for name in reversed(known)})
    assert of_dict.equals(found)
    with pytest.raises(Exception, match="unknown category of 'wood': found \"ash\""):
        model.predict(beams.assign(wood="ash"))


OWN_MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int = 2):
        super().__init__()
        self.layer = torch.nn.LazyLinear(width)

    def forward(self, x):
        return {"y": self.layer(x.flatten(1))}
"""


def test_a_model_of_the_projects_own_code_is_left_out_with_the_reason(trained, tmp_path):
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    model = {"kind": "own_net.Net", "optimizer": {"kind": "AdamW", "lr": 0.01}}
    outcome, _, run = trained({"model": model}, log_model=True)
    assert outcome.status == "FINISHED"
    assert run.info.status == "FINISHED"
    assert not run.outputs.model_outputs
    log = (outcome.run_dir / "log.txt").read_text()
    assert "the model needs code of this project" in log
    assert "own_net.Net" in log


def test_a_model_that_mlflow_refuses_is_noted_and_the_run_ends(trained, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def refuse(*_, **__):
        raise MlflowException("not for you", PERMISSION_DENIED)

    monkeypatch.setattr("mlflow.MlflowClient.create_logged_model", refuse)
    outcome, _, run = trained(log_model=True)
    assert (outcome.status, run.info.status) == ("FINISHED", "FINISHED")
    assert "the model is not logged: MLflow at" in (outcome.run_dir / "log.txt").read_text()


def test_a_run_is_described_with_its_results_and_differing_parameters_first(trained):
    outcome, _, run = trained()
    note = run.data.tags["mlflow.note.content"]
    final = outcome.metrics["loss/test/total"]
    assert note.startswith("**tiny** finished after epoch 2, update 12, in ")
    assert f"`loss/test/total` **{final:.5g}**" in note
    assert "It trains `mlp` with " in note and "samples of " in note
    assert "| `loss/test/total` (lower is better) | " in note
    assert "$ noether predict " in note
    first = list(run.data.params)[:4]
    assert {"model.kind", "model.hidden"} <= set(first)
    assert {one.dataset.name.rpartition(" ")[2] for one in run.inputs.dataset_inputs} == {"train", "test"}


def test_the_same_data_have_the_same_digest_in_every_run(trained, run):
    _, client, first = trained()
    run({"trackers": [{"kind": "mlflow"}], "seed": 3, "trainer.max_epochs": 1})
    digests = [
        {(one.dataset.name, one.dataset.digest) for one in found.inputs.dataset_inputs}
        for found in client.search_runs([first.info.experiment_id])
    ]
    assert len(digests) == 2
    assert digests[0] == digests[1]
    assert len({digest for _, digest in digests[0]}) == 2
