import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from noether.core.trackers import TrackerFeed
from noether.metrics.figures import content_of, encoded
from noether.metrics.results import ResultsFile, folder_of

pytestmark = [
    pytest.mark.slow,  # the server needs some ten seconds to start
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


def closed(feed, status, error=None, deadline_s=30.0):
    """End the run; return the number of lines that were not delivered."""
    feed.end(status, error)
    return feed.wait_closed(deadline_s)


@pytest.fixture
def tracked(server, make_tracker, make_run, records):
    """A run that a real server has seen from its start to its end."""
    tracker = make_tracker(tracking_uri=server)
    run = make_run()
    metrics_path = run.run_dir / "metrics.jsonl"
    feed = TrackerFeed(tracker, metrics_path, run, interval_s=0.05)
    feed.start()
    assert feed.wait_open(30)
    metrics_path.write_bytes(b"".join(record.encode() for record in records))
    results = ResultsFile(run.run_dir)
    plot, errors = encoded("figure", "plot", np.zeros((4, 4))), encoded("table", "Errors", {"a": [1.5]})
    results.keep(records[-1], {"plot": content_of(plot), "Errors": content_of(errors)})
    results.close()
    feed.notify()
    assert closed(feed, "FINISHED") == 0
    return tracker


def test_a_run_reaches_a_server_with_everything(tracked, tmp_path, capfd):
    run = tracked.client.get_run(tracked.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.max_epochs"] == "3"
    history = tracked.client.get_metric_history(tracked.mlflow_run_id, "Evaluation/loss test total")
    assert [point.step for point in history] == [1, 2, 3]
    assert [item.path for item in tracked.client.list_artifacts(tracked.mlflow_run_id, "results/plot")] == [
        "results/plot/U000000000003.png"
    ]
    small, image = (item.path for item in tracked.client.list_artifacts(tracked.mlflow_run_id, "images"))
    assert small == image.replace(".png", "+compressed.webp")
    assert image.startswith("images/plot+step+3+")
    path = f"results/{folder_of('Errors')}/U000000000003.json"
    table = Path(tracked.client.download_artifacts(tracked.mlflow_run_id, path, str(tmp_path)))
    assert json.loads(table.read_text()) == {"columns": ["a"], "data": [[1.5]]}
    assert {item.path for item in tracked.client.list_artifacts(tracked.mlflow_run_id, "spec")} == {
        "spec/spec.toml",
        "spec/spec.resolved.toml",
    }


def test_the_link_is_the_servers_page_of_the_run(tracked, server):
    assert tracked.url == (
        f"{server}/#/experiments/{tracked.experiment_id}/runs/{tracked.mlflow_run_id}"
        "/model-metrics?workflowType=machine_learning"
    )
    assert tracked.description == tracked.url
    with urllib.request.urlopen(tracked.url, timeout=10) as page:
        assert page.status == 200


def test_nothing_is_printed_on_the_runs_output(server, make_tracker, make_run, capfd):
    tracker = make_tracker(tracking_uri=server)
    tracker.open(make_run("quiet"))
    tracker.close("FINISHED", None)
    assert capfd.readouterr() == ("", "")


def test_a_deleted_run_is_marked_as_deleted_and_can_be_restored(tracked, make_run):
    token = tracked.client.get_run(tracked.mlflow_run_id).data.tags["noether.opening"]
    assert tracked.forget(make_run(token="another", reference=tracked.reference)) is False
    assert tracked.forget(make_run(run_id="another-20250101-120000-abcd", token=token)) is False
    assert tracked.forget(make_run(token=token, reference=tracked.reference)) is True
    assert tracked.client.get_run(tracked.mlflow_run_id).info.lifecycle_stage == "deleted"
    assert tracked.forget(make_run(token=token, reference=tracked.reference)) is False
    tracked.client.restore_run(tracked.mlflow_run_id)
    assert tracked.forget(make_run(token=token)) is True
