"""A non-finite loss or gradient is never applied, and ends the run unless skipping is on."""

import pytest
import torch
from safetensors.torch import load

from noether.data.randomness import permutation
from noether.errors import NonFiniteError
from noether.training import nonfinite

EVERY_UPDATE = [{"kind": "checkpoint", "every_n_updates": 1}]


@pytest.fixture(params=["the host looks", "masked on the device"], autouse=True)
def device(request, monkeypatch):
    """Treat the CPU as a CPU, and as a device for which the host has to wait."""
    if request.param == "masked on the device":
        monkeypatch.setattr(nonfinite, "MASKING_DEVICES", frozenset({"cpu"}))


def update_of(sample, epoch=0):
    """Return the update, from 1, in which an epoch of the tiny spec uses a sample."""
    place = permutation(48, 0, epoch).tolist().index(sample)
    return epoch * 6 + place // 8 + 1


def test_a_loss_that_is_not_finite_ends_the_run_with_4_and_names_update_and_checkpoint(run, attempt, bad_sample):
    outcome = run({"trainer.callbacks": EVERY_UPDATE})
    bad = update_of(bad_sample)
    assert (outcome.status, outcome.exit_code) == ("FAILED", 4)
    assert isinstance(outcome.error, NonFiniteError)
    assert f"update {bad};" in outcome.error.message
    assert f"step-{bad - 1:012d}" in outcome.error.message
    assert "skip_nan_loss = true" in outcome.error.hint
    assert attempt(outcome)["status"] == "FAILED"
    assert attempt(outcome)["reason"].startswith("the loss or a gradient is not finite")


def test_the_last_checkpoint_holds_the_weights_before_the_bad_update(run, finish, final_weights, bad_sample):
    failed = run({"trainer.callbacks": EVERY_UPDATE})
    before = {"trainer.max_epochs": None, "trainer.max_updates": update_of(bad_sample) - 1}
    assert final_weights(failed) == final_weights(finish(before))


def test_without_a_checkpoint_the_message_says_so(run, bad_sample):
    assert "there is no checkpoint yet" in run().error.message


def test_skip_nan_loss_leaves_the_bad_updates_out_and_goes_on(finish, final_weights, metric_lines, bad_sample):
    outcome = finish({"trainer.skip_nan_loss": True, "trainer.track_every_n_updates": 1})
    state = load(final_weights(outcome))
    assert all(tensor.isfinite().all() for tensor in state.values())
    logged = {line["update"] for line in metric_lines(outcome) if "loss/online/total" in line["metrics"]}
    assert logged == set(range(1, 13)) - {update_of(bad_sample), update_of(bad_sample, epoch=1)}


def test_a_skipped_update_changes_no_weight(finish, final_weights, bad_sample):
    bad = update_of(bad_sample)
    limits = [{"trainer.max_epochs": None, "trainer.max_updates": updates} for updates in (bad - 1, bad)]
    before, after = (finish({**limit, "trainer.skip_nan_loss": True}) for limit in limits)
    assert final_weights(before) == final_weights(after)


def test_one_bad_accumulation_step_discards_the_whole_update(finish, final_weights, bad_sample):
    bad = update_of(bad_sample)
    limits = [{"trainer.max_epochs": None, "trainer.max_updates": updates} for updates in (bad - 1, bad)]
    accumulated = {"trainer.skip_nan_loss": True, "trainer.max_batch_size": 2}
    before, after = (finish({**limit, **accumulated}) for limit in limits)
    assert final_weights(before) == final_weights(after)


def test_skipping_ends_the_run_after_too_many_bad_updates_in_a_row(run, metric_lines, bad_sample):
    outcome = run(
        {
            "trainer.effective_batch_size": 48,  # so that every update holds the bad sample
            "trainer.max_epochs": 9,
            "trainer.skip_nan_loss": True,
            "trainer.skip_nan_loss_max_count": 3,
        }
    )
    assert outcome.exit_code == 4
    assert "in 3 updates in a row from update 1 on" in outcome.error.message


def test_a_good_update_starts_the_count_anew(finish, bad_sample):
    finish({"trainer.max_epochs": 4, "trainer.skip_nan_loss": True, "trainer.skip_nan_loss_max_count": 2})


def test_a_gradient_that_is_not_finite_counts_as_well(run, lab):
    outcome = run({"trainer.loss_fn": "lab.losses.infinite_gradient"})
    assert outcome.exit_code == 4
    assert "not finite in update 1" in outcome.error.message


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_update_is_not_applied_in_any_precision(finish, final_weights, bad_sample, precision):
    outcome = finish({"trainer.skip_nan_loss": True, "trainer.precision": precision})
    assert all(torch.isfinite(tensor).all() for tensor in load(final_weights(outcome)).values())
