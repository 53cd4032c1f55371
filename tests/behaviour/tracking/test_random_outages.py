"""Random outages, and processes that die and continue from a checkpoint: every value arrives once."""

import random

import pytest

from noether.core.trackers import RunDescription
from noether.metrics.delivery import Delivery
from noether.metrics.metrics_file import MetricRecord

TROUBLE = ["reset", "lost reply", "half closed", "cut", "html", "redirect", "empty", "empty done", "odd", "list"]
TROUBLE += ["too large", 429, 500, 503]
UPDATES = 60


class KilledError(BaseException):
    """The process dies; nothing that it would have done afterwards happens."""


class Run:
    """Writes metrics, is killed, and goes on from its last checkpoint with the same values, but timings of its own."""

    def __init__(self, folder, dice):
        self.path = folder / "metrics.jsonl"
        self.dice = dice
        self.update, self.checkpoint, self.clock = 0, (0, 0), 1_700_000_000.0

    def values(self, update):
        values = {"loss": 1.0 / update, "ema=0.9/loss": 2.0 / update, "profiling/seconds": self.dice.random()}
        return values | ({"odd": float("nan")} if update % 7 == 0 else {})

    def train(self, updates):
        with self.path.open("ab") as file:
            for _ in range(min(updates, UPDATES - self.update)):
                self.update += 1
                self.clock += 1.0
                if self.update % 5:  # not every update has metrics
                    line = MetricRecord(self.update, 0, self.update, self.clock, self.values(self.update)).encode()
                    file.write(line)
                if self.dice.random() < 0.2:
                    self.checkpoint = (self.update, file.tell())

    def values_in_file(self):
        return sum(len(MetricRecord.decode(line).metrics) for line in self.path.read_bytes().splitlines())

    def die_and_resume(self):
        self.update, offset = self.checkpoint
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(offset)
        self.clock += 1000.0


def mortal(method, dice):
    def call(*arguments):
        moment = dice.random()
        if moment < 0.06:
            raise KilledError
        method(*arguments)
        if moment > 0.94:
            raise KilledError

    return call


def dying(tracker, dice):
    """End the process at some calls of the tracker, before or after the call."""
    for name in ("open", "log_metrics", "close"):
        setattr(tracker, name, mortal(getattr(tracker, name), dice))
    return tracker


@pytest.mark.parametrize("seed", range(12))
def test_every_value_arrives_once_and_in_order(fake_server, make_tracker, tmp_path, figures, seed):  # H-2 H-8
    dice = random.Random(seed)
    fake_server.mode = lambda call: dice.choice(TROUBLE) if dice.random() < 0.12 else "ok"
    run, deaths, deliveries = Run(tmp_path, dice), 0, 0
    told, last = [], None
    closed = False
    while not closed:
        description = RunDescription(
            "r", "tiny", tmp_path, params={"a": "1"}, attempt=deaths + 1, resumed_update=run.update
        )
        tracker = dying(make_tracker(tracking_uri=fake_server.address), dice)
        delivery = Delivery(tracker, run.path, description, tmp_path / "spool" / "mlflow.json", told.append)
        try:
            while not closed:
                deliveries += 1
                assert deliveries < 300, last
                run.train(dice.randrange(12))
                if dice.random() < 0.05 or (run.update > 30 and not deaths):
                    raise KilledError
                try:
                    if not delivery.is_open:
                        delivery.open()
                    delivery.deliver_metrics()
                    if run.update == UPDATES:
                        delivery.close("FINISHED", None)
                        closed = True
                except Exception as error:  # what the feed does: it comes again
                    last = error
        except KilledError:
            deaths += 1
            run.die_and_resume()
    points = fake_server.run.points
    figures(
        "metrics after outages and kills",
        produced=run.values_in_file(),
        lost=run.values_in_file() - len({(key, step) for key, _, step, _ in points}),
        doubled=len(points) - len({(key, step) for key, _, step, _ in points}),
        kills=deaths,
    )
    expected = [update for update in range(1, UPDATES + 1) if update % 5]
    arrived = fake_server.run
    assert arrived.curve("loss") == [(update, 1.0 / update) for update in expected]
    assert [step for step, _ in arrived.curve("profiling/seconds")] == expected
    assert arrived.curve("ema=0.9/loss") == [(update, 2.0 / update) for update in expected]
    assert [step for step, _ in arrived.curve("odd")] == [update for update in expected if update % 7 == 0]
    assert arrived.status == "FINISHED"
    assert deaths  # else this seed proves nothing
    assert any(mode != "ok" for _, _, mode in fake_server.requests)
    assert told == []
