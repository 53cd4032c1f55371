"""MLflow's own pages of two runs, on a real server: what a user sees first."""

from __future__ import annotations

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import noether

pytestmark = [
    pytest.mark.slow,  # the server needs some ten seconds to start
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
SPEC = Path(__file__).parents[2] / "specs" / "smoke" / "digits.toml"
NOT_ASKED = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
"""Without it a panel of MLflow's takes a third of the first page."""


@pytest.fixture(scope="module")
def server(serve_mlflow, browser, tmp_path_factory):
    """The address of a real `mlflow server` on the loopback; it ends with all of its processes."""
    folder = tmp_path_factory.mktemp("server")
    with serve_mlflow(folder) as address:
        yield address
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """Experiment and ids of two runs with other layers, as MLflow names them."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("runs")
    tracker = {"kind": "mlflow", "tracking_uri": server, "log_model": True, "log_system_metrics": True}
    tracker |= {"tags": {"team": "readers"}, "note": "Trying *wider* layers."}
    for hidden in ([16], [32]):
        outcome = noether.run(
            SPEC,
            set={
                "trackers": [tracker],
                "model.hidden": hidden,
                "trainer.max_epochs": 2,
                "expect": None,
                "output": str(folder),
            },
            quiet=True,
        )
        assert outcome.status == "FINISHED"
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("digits").experiment_id
    return experiment, [run.info.run_id for run in client.search_runs([experiment])]


@pytest.fixture
def show(browser, server):
    """Opens a page of the server below `#`, and waits for a text on it."""
    opened = []

    def shown(place, text, height=1400):
        context = browser.new_context(viewport={"width": 1500, "height": height})
        opened.append(context)
        context.add_init_script(
            "".join(f"localStorage.setItem('{key}', '{is_on}');" for key, is_on in NOT_ASKED.items())
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{server}/#{place}")
        page.get_by_text(text).first.wait_for()
        return page

    yield shown
    for context in opened:
        context.close()


def test_the_link_of_a_run_opens_on_curves_of_its_evaluations(show, runs):
    experiment, (run, _) = runs
    page = show(f"/experiments/{experiment}/runs/{run}/model-metrics?workflowType=machine_learning", "Add chart")
    text = page.inner_text("body")
    groups = [text.index(group) for group in ("Evaluation", "accuracy test label", "loss/online", "optim")]
    assert groups == sorted(groups)
    assert not [word for word in ("samples", "profiling", "parameters") if word in text]


@pytest.mark.long
def test_the_page_of_a_run_says_what_it_was_and_how_good(show, runs):
    experiment, (run, _) = runs
    page = show(f"/experiments/{experiment}/runs/{run}?workflowType=machine_learning", "Description", height=2200)
    page.get_by_text("finished after epoch 2").wait_for()
    page.get_by_text("Show more").first.click()
    text = page.inner_text("body")
    for part in ("Trying wider layers.", "accuracy/test/label", "noether predict", "digits train", "team"):
        assert part in text
    assert page.get_by_role("cell", name="accuracy/test/label").count()
    assert "Logged models (1)" in text
    parameters = text[text.index("Parameters (") :].splitlines()
    assert parameters.index("model.hidden") < parameters.index("trainer.max_epochs")
    assert "None" not in text[text.index("Datasets") : text.index("Tags")]


@pytest.mark.long
def test_two_runs_compared_show_the_parameters_that_differ(show, runs):
    experiment, ids = runs
    asked = urllib.parse.quote(json.dumps(ids)), urllib.parse.quote(json.dumps([experiment]))
    page = show(f"/compare-runs?runs={asked[0]}&experiments={asked[1]}", "Comparing 2 Runs", height=2200)
    page.get_by_text("[16]", exact=True).first.wait_for()
    text = page.inner_text("body")
    assert "[32]" in text
    assert "Evaluation/accuracy test label" in text
