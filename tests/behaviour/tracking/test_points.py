"""A point is identified by its key and update: nothing is lost, doubled or replaced, whatever happens in between."""

import pytest

import noether
from noether.core.trackers import RunDescription
from noether.metrics.delivery import Delivery
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import TrackerError, TrackerRefusedError

NOT_MLFLOW = ["empty", "odd", "null", "list", "html"]


@pytest.fixture
def process(fake_server, make_tracker, tmp_path):
    """Makes the delivery of a process; `resumed` is the update of the checkpoint that it continues from."""

    def make(resumed=0, notes=None, **fields):
        run = RunDescription("r", "tiny", tmp_path, resumed_update=resumed, **fields)
        tracker = make_tracker(tracking_uri=fake_server.address, request_timeout_s=2)
        note = (notes if notes is not None else []).append
        return Delivery(tracker, tmp_path / "metrics.jsonl", run, tmp_path / "spool/mlflow.json", note)

    return make


@pytest.fixture
def write(tmp_path):
    """Writes lines from an update on, in place of those that were there."""

    def written(updates, **metrics):
        path = tmp_path / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if MetricRecord.decode(line).update < min(updates)]
        added = [MetricRecord(update, 0, update, 1.7e9 + update, {"loss": 1 / update} | metrics) for update in updates]
        path.write_bytes(b"".join([*kept, *(record.encode() for record in added)]))

    return written


def deliver(delivery):
    if not delivery.is_open:
        delivery.open()
    delivery.deliver_metrics()


def test_timings_of_a_replay_neither_double_nor_replace_those_of_a_batch_whose_answer_was_lost(
    process, write, fake_server
):
    first = process()
    write(range(1, 11), seconds=0.1)
    first.open()
    fake_server.mode = "lost reply"
    with pytest.raises(TrackerError):
        first.deliver_metrics()
    fake_server.mode = "ok"
    write(range(6, 13), seconds=0.9)  # killed, and continued from update 5
    deliver(process(resumed=5, attempt=2))
    assert fake_server.run.curve("loss") == [(update, 1 / update) for update in range(1, 13)]
    assert fake_server.run.curve("seconds") == [(update, 0.1 if update <= 10 else 0.9) for update in range(1, 13)]


def test_a_key_that_a_replay_adds_to_updates_that_were_delivered_arrives(process, write, fake_server):
    write(range(1, 11))
    deliver(process())
    write(range(6, 13), new=1.0)
    deliver(process(resumed=5, attempt=2))
    assert [step for step, _ in fake_server.run.curve("new")] == list(range(6, 13))
    assert [step for step, _ in fake_server.run.curve("loss")] == list(range(1, 13))


def test_two_lines_of_one_update_are_two_points_also_after_an_answer_that_was_lost(
    process, write, fake_server, tmp_path
):
    write([1, 2])
    path = tmp_path / "metrics.jsonl"
    delivery = process()
    deliver(delivery)
    with path.open("ab") as file:
        file.write(MetricRecord(2, 0, 2, 1.8e9, {"loss": 7.0}).encode())
    fake_server.mode = "lost reply"
    with pytest.raises(TrackerError):
        delivery.deliver_metrics()
    fake_server.mode = "ok"
    deliver(delivery)
    assert fake_server.run.curve("loss") == [(1, 1.0), (2, 0.5), (2, 7.0)]


def test_a_store_that_was_restored_from_a_backup_gets_back_what_it_lost(process, write, fake_server):
    delivery = process()
    write(range(1, 4))
    deliver(delivery)
    fake_server.back_up()
    write(range(4, 8))
    deliver(delivery)
    fake_server.restore()
    write(range(8, 10))
    deliver(process(resumed=7, attempt=2))
    assert fake_server.run.curve("loss") == [(update, 1 / update) for update in range(1, 10)]


def test_an_mlflow_run_that_is_gone_is_begun_anew_with_everything(process, write, fake_server, caplog):
    write(range(1, 4))
    deliver(process())
    fake_server.runs.clear()
    write(range(4, 6))
    deliver(process(resumed=3, attempt=2))
    assert [step for step, _ in fake_server.run.curve("loss")] == list(range(1, 6))
    assert "is gone" in caplog.text


@pytest.mark.parametrize("answer", NOT_MLFLOW)
@pytest.mark.parametrize(
    "call",
    ["experiments/get-by-name", "runs/create", "runs/get", "runs/log-batch", "runs/update", "metrics/get-history"],
)
def test_an_answer_that_is_not_mlflows_is_none_whatever_was_asked(process, write, fake_server, call, answer):
    write(range(1, 4), seconds=0.1)
    first = process()
    first.open()
    fake_server.mode = "lost reply"
    with pytest.raises(TrackerError):
        first.deliver_metrics()
    left = [2]

    def mode(asked):
        left[0] -= asked == call
        return answer if asked == call and left[0] >= 0 else "ok"

    fake_server.mode = mode
    if call in ("experiments/get-by-name", "runs/create"):
        fake_server.runs.clear()
    write(range(3, 6), seconds=0.9)
    delivery = process(resumed=2, attempt=2)
    errors = []
    for _ in range(10):
        try:
            deliver(delivery)
            delivery.close("FINISHED", None)
            break
        except TrackerError as error:
            errors.append(error)
    assert len(errors) >= 2
    assert {error.retry_after_s for error in errors} == {0.0}
    assert [step for step, _ in fake_server.run.curve("loss")] == list(range(1, 6))
    assert fake_server.run.status == "FINISHED"


def test_a_request_that_is_too_large_is_halved_and_the_next_ones_are_smaller(process, write, fake_server):
    fake_server.mode = "too large"
    write(range(1, 9))
    delivery = process()
    deliver(delivery)
    asked = len(fake_server.requests)
    write(range(9, 17))
    deliver(delivery)
    assert [step for step, _ in fake_server.run.curve("loss")] == list(range(1, 17))
    assert len(fake_server.requests) - asked == 4  # of two values each
    fake_server.mode = 413
    write([17])
    with pytest.raises(TrackerError):
        delivery.deliver_metrics()
    fake_server.mode = "ok"
    deliver(delivery)
    assert fake_server.run.curve("loss")[-1] == (17, 1 / 17)


def test_a_server_that_asks_to_wait_says_for_how_long(process, write, fake_server):
    delivery = process()
    delivery.open()
    write([1])
    fake_server.mode = "wait"
    with pytest.raises(TrackerError) as caught:
        delivery.deliver_metrics()
    assert caught.value.retry_after_s == 1.0


def test_a_redirect_that_drops_the_content_names_where_it_leads(process, write, fake_server):
    delivery = process()
    delivery.open()
    write([1])
    fake_server.mode = "redirect"
    with pytest.raises(TrackerError) as caught:
        delivery.deliver_metrics()
    assert not isinstance(caught.value, TrackerRefusedError)
    assert f"{fake_server.address}/login" in str(caught.value)


@pytest.fixture
def stops_at(tiny_spec, fake_server, workplace, monkeypatch):
    """A run that stops after an update, with a checkpoint at 4 and 8, and goes on in the way that is asked for."""

    def run(updates, **options):
        trainer = tiny_spec["trainer"] | {
            "max_epochs": None,
            "max_updates": updates,
            "callbacks": [{"kind": "checkpoint", "every_n_updates": 4}],
        }
        table = {"kind": "mlflow", "tracking_uri": fake_server.address}
        spec = tiny_spec | {"trainer": trainer, "trackers": [table]}
        outcome = noether.run(spec, run_id="r", quiet=True, **options)
        assert outcome.error is None
        return outcome.run_dir

    return run


LOSS = "loss/online/total"
OTHER_RATE = {"model.optimizer.lr": 0.5}


def test_a_replay_with_another_spec_has_an_mlflow_run_of_its_own_that_names_the_old_one(stops_at, fake_server):
    stops_at(10)
    (old,) = fake_server.runs.values()
    before = dict(old.points), dict(old.params), old.status
    stops_at(12, resume="E0_U4_S32", set=OTHER_RATE, allow_spec_change=True)
    assert (old.points, old.params, old.status) == before
    _, new = fake_server.runs.values()
    assert new.tags["noether.continues"] == old.id
    assert [step for step, _ in new.curve(LOSS)] == list(range(1, 13))
    assert new.curve(LOSS)[:4] == old.curve(LOSS)[:4]
    assert new.curve(LOSS)[9] != old.curve(LOSS)[9]
    assert new.params["model.optimizer.lr"] == "0.5"


def test_an_older_checkpoint_has_an_mlflow_run_of_its_own(stops_at, fake_server):
    stops_at(10)
    stops_at(12, resume="E0_U4_S32")
    old, new = fake_server.runs.values()
    assert [step for step, _ in old.curve(LOSS)] == list(range(1, 11))
    assert [step for step, _ in new.curve(LOSS)] == list(range(1, 13))
    assert new.tags["noether.continues"] == old.id


def test_another_spec_without_a_replay_stays_in_the_mlflow_run(stops_at, fake_server):
    stops_at(8)
    stops_at(12, resume="auto", set=OTHER_RATE, allow_spec_change=True)
    assert [step for step, _ in fake_server.run.curve(LOSS)] == list(range(1, 13))


def test_a_replay_of_what_another_spec_has_computed_since_is_told_apart(process, write, fake_server):
    write(range(1, 9))
    deliver(process(mathematics="one"))
    write(range(9, 13))
    deliver(process(resumed=8, attempt=2, mathematics="two"))
    assert len(fake_server.runs) == 1
    write(range(7, 13))  # the checkpoints since are damaged: updates 7 and 8 were of the first spec
    deliver(process(resumed=6, attempt=3, mathematics="two"))
    assert len(fake_server.runs) == 2
