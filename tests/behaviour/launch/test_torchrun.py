"""Several machines by torchrun's own options: with one folder of runs, and with one for each machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
RUN = ("run", "spec.toml", "--run-id", "a", "--resume", "auto", "-q", "-s", "trainer.max_epochs=1")


def test_machines_that_share_the_folder_of_runs_train_one_run_and_continue_it(machines: Callable, workplace: Path):
    shared = ("-s", f"output='{workplace / 'runs'}'")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", "localhost:PORT")
    for end in machines("one", "two", *RUN, *shared, options=meeting):
        assert end.code == 0, end.printed
    run = workplace / "runs" / "a"
    assert (run / "log.txt").exists() and (run / "log.rank-00001.txt").exists()
    more = ("-s", "trainer.max_epochs=2")
    for end in machines("one", "two", *RUN, *shared, *more, options=meeting):
        assert end.code == 0, end.printed
    assert '"resumed_from": "step-000000000006"' in (run / "attempts" / "0002.json").read_text()


def test_machines_with_a_folder_each_train_but_do_not_continue(machines: Callable, workplace: Path):
    first, second = machines("one", "two", *RUN)
    assert (first.code, second.code) == (0, 0), first.printed + second.printed
    assert (workplace / "one/runs/a/metrics.jsonl").exists() and not (workplace / "two/runs").exists()
    assert "INFO noether" in second.printed  # the log of its rank: there is no run folder for it
    more = ("-s", "trainer.max_epochs=2")
    first, second = machines("one", "two", *RUN, *more)
    assert first.code and second.code
    for end in (first, second):
        assert f"found nothing at {workplace / 'two/runs/a/checkpoints/step-000000000006'}" in end.printed
    # The other machine has become the first: it would begin the run anew, with the same name.
    first, second = machines("two", "one", *RUN, *more)
    assert first.code and second.code
    assert f"found {workplace / 'one/runs/a'}" in first.printed
    assert not (workplace / "two/runs").exists()
