"""The wording of the errors of metrics, in one place; other tests look at types and facts."""

import torch

from noether.config.metric_facts import MetricPropertyProvider
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricRecord, MetricsFile


def test_messages(golden, tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(MetricRecord(1, 0, 4, 0.0, {"loss": 0.5}))
    file.close()
    (tmp_path / "damaged.jsonl").write_text("no json\n")
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
            "an unknown direction": lambda: directions.higher_is_better("drag_count"),
            "a neutral metric": lambda: directions.higher_is_better("optim/lr"),
            "a direction": lambda: directions.add("*", "up"),
            "a file that is too short": lambda: file.truncate(1000),
            "a damaged line": lambda: list(MetricsFile(tmp_path / "damaged.jsonl").read()),
        }
    )
