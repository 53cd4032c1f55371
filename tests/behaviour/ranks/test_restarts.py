"""A run of several ranks that was killed ends with the bytes of one that was not; another number of ranks goes on."""

import signal

import pytest

SAVES = {"kind": "checkpoint", "every_n_updates": 4}
AGAIN = {"TORCHELASTIC_RESTART_COUNT": "1"}


def kills(*ranks, update=10):
    return {"kind": "lab.ranks.Signals", "ranks": list(ranks), "numbers": [signal.SIGKILL], "update": update}


@pytest.mark.parametrize(
    "killed", [[2], *(pytest.param(ranks, marks=pytest.mark.long) for ranks in ([0], [1], [0, 1], [0, 1, 2]))], ids=str
)
def test_three_ranks_of_which_some_were_killed_end_with_the_same_bytes(started, on, killed):
    changes = {"trainer.callbacks": [kills(*killed), SAVES]}
    with started(3, changes, run_id="killed") as ranks:
        ends = ranks.ends()
    assert [end.exit_code for end in ends if end.rank in killed] == [-9] * len(killed)
    assert [end.result.code for end in ends if end.rank not in killed] == [1] * (3 - len(killed))
    resumed = on(3, changes, AGAIN, run_id="killed")  # as a launcher starts them again
    straight = on(3, changes, AGAIN, run_id="straight")
    assert [end.code for end in resumed] == [0, 0, 0]
    assert resumed[0].files == straight[0].files
    assert list(resumed[0].losses) == list(straight[0].losses)


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_resumed_run_with_draws_equals_a_straight_one(on, world, dropout):
    stops = {"kind": "lab.ranks.Signals", "ranks": [world - 1], "numbers": [signal.SIGTERM]}
    changes = {"model.dropout": dropout, "trainer.callbacks": [stops, SAVES]}
    assert on(world, changes, run_id="stopped")[0].code == 143
    resumed, straight = (on(world, changes, AGAIN, run_id=run_id) for run_id in ("stopped", "straight"))
    assert resumed[0].files == straight[0].files


def order_of(world, updates, folder):
    """Return the samples of some updates over all ranks, in the global order, and remove the notes of them."""
    notes = {}
    for rank in range(world):
        file = folder / f"order-{rank}.txt"
        for line in file.read_text().splitlines():
            update, *indices = line.split()
            notes.setdefault((int(update), rank), []).extend(map(int, indices))
        file.unlink()
    assert sorted({update for update, _ in notes}) == list(updates)
    return [index for update in updates for rank in range(world) for index in notes[update, rank]]


@pytest.mark.parametrize(
    "worlds", [[2, 1], pytest.param([2, 1, 3], marks=pytest.mark.long), pytest.param([5, 3, 2], marks=pytest.mark.long)]
)
def test_the_samples_go_on_as_they_would_have_with_another_number_of_ranks(on, workplace, worlds):
    changes = {"datasets.train": {"kind": "lab.ranks.Numbers"}, "trainer.callbacks": [{"kind": "lab.ranks.Notes"}]}
    assert on(1, {**changes, "trainer.max_updates": 18}, run_id="one")[0].code == 0
    expected, found = order_of(1, range(18), workplace), []
    for part, world in enumerate(worlds):
        first, last = 6 * part, 6 * (part + 1)
        options = {"run_id": "many", "resume": "auto", "allow_spec_change": True}
        ends = on(world, {**changes, "trainer.max_updates": last}, **options)
        assert [end.error for end in ends] == [None] * world
        found += order_of(world, range(first, last), workplace)
    assert found == expected[: len(found)]
    assert sorted(expected[:240]) == list(range(240))


@pytest.mark.long
def test_other_ranks_go_on_within_rounding(on):
    changes = {"trainer.callbacks": [SAVES]}
    on(2, {**changes, "trainer.max_updates": 8}, run_id="many")
    (single,) = on(1, changes, run_id="one")
    options = {"run_id": "many", "resume": "auto", "allow_spec_change": True}
    resumed = on(3, changes, **options)[0]
    assert resumed.losses == pytest.approx(single.losses, rel=1e-4)
    log = (resumed.run_dir / "log.txt").read_text()
    assert "on 2 ranks" in log
    assert "ranks 2 → 3" in log


@pytest.mark.long
def test_a_batch_that_the_new_ranks_do_not_divide_is_refused_with_sizes_that_fit(on):
    changes = {"trainer.max_updates": 4}
    on(2, changes, run_id="many")
    ends = on(7, {}, run_id="many", resume="auto", allow_spec_change=True)
    assert {end.code for end in ends} == {2}
    assert "effective_batch_size=56" in ends[0].error
    assert on(2, {}, run_id="many", resume="auto", allow_spec_change=True)[0].code == 0


def one_after_the_other(spec, train):
    return [train({**spec, "seed": seed}, {"run_id": f"run-{seed}"}) for seed in (0, 1)]


def test_ranks_may_train_one_run_after_the_other(spec, train, two_ranks):
    first, _ = two_ranks(one_after_the_other, spec, train)
    assert [(trained.code, trained.error) for trained in first] == [(0, None)] * 2
    assert first[0].files != first[1].files
