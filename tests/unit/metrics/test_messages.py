"""The wording of the errors of metrics, in one place; other tests look at types and facts."""

import torch

from noether.config.metric_facts import MetricPropertyProvider
from noether.metrics.figures import encoded
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricRecord, MetricsFile
from noether.metrics.results import results_in


def test_messages(golden, tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(MetricRecord(1, 0, 4, 0.0, {"loss": 0.5}))
    file.close()
    (tmp_path / "damaged.jsonl").write_text("no json\n")
    (tmp_path / "results.jsonl").write_text('{"file": "../../precious"}\n')
    writer, directions = LogWriter(None), MetricPropertyProvider()
    writer.add_scalar("loss/test/total", 0.5)
    golden(
        {
            "a metric that was not logged": lambda: writer.current("loss/tests/total"),
            "a metric key": lambda: writer.add_scalar("", 0.5),
            "a key of a non-scalar": lambda: writer.add_nonscalar(("a",), 0.5),
            "a tensor that is not a scalar": lambda: writer.add_scalar("my/metric", torch.ones(3)),
            "a list that is not a scalar": lambda: writer.add_scalar("my/metric", [1.0]),
            "a non-scalar": lambda: writer.add_nonscalar("model", {"it": object()}),
            "a key of a figure": lambda: writer.add_figure("", None),
            "a value that is no figure": lambda: encoded("figure", "picture", [1, 2]),
            "a picture with its channels first": lambda: encoded("figure", "picture", torch.zeros(3, 8, 8)),
            "a picture of large numbers": lambda: encoded("figure", "picture", torch.full((2, 2), 7.0)),
            "a value that is no table": lambda: encoded("table", "errors", 3),
            "a table with columns of different lengths": lambda: encoded("table", "errors", {"a": [1], "b": [1, 2]}),
            "a column of different types": lambda: encoded("table", "errors", {"a": [1, "x"]}),
            "a histogram without bins": lambda: encoded("histogram", "weights", torch.ones(3), 0),
            "a file that is missing": lambda: encoded("file", "mesh", "missing.vtu"),
            "a line that is no result": lambda: list(results_in(tmp_path)),
            "an unknown direction": lambda: directions.higher_is_better("drag_count"),
            "a neutral metric": lambda: directions.higher_is_better("optim/lr"),
            "a direction": lambda: directions.add("*", "up"),
            "a file that is too short": lambda: file.truncate(1000),
            "a damaged line": lambda: list(MetricsFile(tmp_path / "damaged.jsonl").read()),
        }
    )
