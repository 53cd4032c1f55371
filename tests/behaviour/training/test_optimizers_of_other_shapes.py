"""Optimizers with state of their own, with two sets of weights, and with a closure; schedules that follow a metric."""

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.data.randomness import permutation
from noether.errors import SpecError
from noether.runs.resume.verify_resume import verify_resume

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"}
LBFGS = {"kind": "LBFGS", "lr": 0.5, "max_iter": 4, "line_search_fn": "strong_wolfe"}


@pytest.fixture
def is_resumed_exactly(tiny_spec, lab):
    """Compare a run straight and interrupted, after some updates."""

    def compare(optimizer, at, callbacks=()):
        tiny_spec["model"]["optimizer"] = optimizer
        tiny_spec["trainer"]["callbacks"] = list(callbacks)
        Path("resumed.toml").write_text(tomli_w.dumps(tiny_spec))
        return verify_resume("resumed.toml", at=at).is_equal

    return compare


@pytest.fixture
def refusal(tiny_spec, lab):
    """Return the message with which a run is refused before it trains."""

    def refused(optimizer, **settings):
        tiny_spec["model"]["optimizer"] = optimizer
        with pytest.raises(SpecError) as caught:
            noether.run(tiny_spec, set={f"trainer.{name}": value for name, value in settings.items()}, quiet=True)
        assert not Path("runs").exists()
        return caught.value.message

    return refused


# State


@pytest.mark.parametrize("kind", ["Look", "Own", pytest.param("Counting", marks=pytest.mark.long)])
def test_state_of_the_whole_optimizer_is_resumed_exactly(is_resumed_exactly, kind):
    assert is_resumed_exactly({"kind": f"lab.optimizers.{kind}"}, [7])


def test_state_that_a_checkpoint_cannot_hold_is_refused_before_training(refusal):
    message = refusal({"kind": "lab.optimizers.Unkeepable"})
    assert "Unkeepable" in message
    assert "whole/seen" in message


# Two sets of weights


def test_weights_to_evaluate_are_logged_and_saved(finish, final_weights, metric_lines, lab):
    changes = {"model.optimizer": {"kind": "lab.optimizers.ScheduleFree"}, "trainer.callbacks": [OFFLINE_LOSS]}
    outcome = finish(changes)
    expected, network = schedule_free_by_hand(updates=12)
    for name, tensor in load(final_weights(outcome)).items():
        assert torch.equal(tensor, expected[name.removeprefix("layers.")]), name
    test = np.load("test.npz")
    with torch.no_grad():
        network.load_state_dict(expected)
        error = torch.nn.functional.mse_loss(network(torch.from_numpy(test["x"])), torch.from_numpy(test["y_target"]))
    assert metric_lines(outcome)[-1]["metrics"]["loss/test/total"] == pytest.approx(float(error), rel=1e-5)


def schedule_free_by_hand(updates):
    """Train the tiny spec's model in plain PyTorch; return the averaged weights, and the network."""
    from lab.optimizers import ScheduleFree

    arrays = np.load("train.npz")
    x, target = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y_target"])
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    optimizer = ScheduleFree(network.parameters())
    optimizer.train()
    orders = (batch for epoch in range(updates) for batch in permutation(len(x), 0, epoch).split(8))
    for _, batch in zip(range(updates), orders, strict=False):
        torch.nn.functional.mse_loss(network(x[batch]), target[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.eval()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, network


def test_evaluations_and_checkpoints_do_not_change_training(finish, final_weights, lab):
    optimizer = {"model.optimizer": {"kind": "lab.optimizers.ScheduleFree"}}
    watched = [OFFLINE_LOSS, {"kind": "checkpoint", "every_n_updates": 1}]
    plain, seen = (final_weights(finish({**optimizer, "trainer.callbacks": callbacks})) for callbacks in ([], watched))
    assert plain == seen


def test_two_sets_of_weights_are_resumed_exactly(is_resumed_exactly):
    assert is_resumed_exactly({"kind": "lab.optimizers.ScheduleFree"}, [5], [OFFLINE_LOSS])


def test_after_training_the_model_has_the_weights_to_evaluate(workplace, lab, monkeypatch):
    monkeypatch.syspath_prepend(workplace)
    from lab.optimizers import ScheduleFree

    from noether.optim.model_optimizer import ModelOptimizer
    from noether.testing import make_model, make_trainer

    model = make_model()
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.optimizer = ModelOptimizer(ScheduleFree(parameters), names=names)
    trainer = make_trainer(workplace / "made")
    trainer.train(model)
    assert not model.optimizer.torch_optimizer.param_groups[0]["train_mode"]


# Closures


def lbfgs_by_hand(updates):
    arrays = np.load("train.npz")
    x, target = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y_target"])
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.LBFGS(network.parameters(), **{k: v for k, v in LBFGS.items() if k != "kind"})
    orders = (batch for epoch in range(updates) for batch in permutation(len(x), 0, epoch).split(8))

    for _, batch in zip(range(updates), orders, strict=False):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(network(x[batch]), target[batch])
            loss.backward()
            return loss

        optimizer.step(closure)
    return network.state_dict()


def test_lbfgs_trains_as_by_hand(finish, final_weights):
    found = load(final_weights(finish({"model.optimizer": LBFGS})))
    for name, tensor in lbfgs_by_hand(12).items():
        assert torch.equal(found[f"layers.{name}"], tensor), name


def test_lbfgs_is_resumed_exactly(is_resumed_exactly):
    assert is_resumed_exactly(LBFGS, [5])


def test_an_optimizer_that_fails_without_a_closure_gets_one(finish, final_weights, lab):
    sharpness = {"kind": "lab.optimizers.Sharpness", "lr": 0.05}
    near, far = (final_weights(finish({"model.optimizer": {**sharpness, "rho": rho}})) for rho in (1e-3, 0.5))
    assert near != far


@pytest.mark.parametrize(
    "settings",
    [
        {"skip_nan_loss": True},
        {"max_batch_size": 4},
    ],
    ids=["skipping", "accumulation"],
)
def test_what_does_not_fit_a_closure_is_refused(refusal, settings):
    assert "several times an update" in refusal(LBFGS, **settings)


@pytest.mark.parametrize(
    "options",
    [{"clip_grad_norm": 1.0}, {"groups": [{"match": ["*.bias"], "lr_scale": 0.5}]}],
    ids=["clipping", "groups"],
)
def test_options_that_lbfgs_does_not_have_are_refused(refusal, options):
    assert "LBFGS" in refusal({**LBFGS, **options})


def test_a_search_that_leaves_for_infinity_ends_the_run(run):
    outcome = run({"model.optimizer": {"kind": "LBFGS", "lr": 1e30, "max_iter": 20}})
    assert outcome.exit_code == 4


# A schedule that follows a metric

PLATEAU = {"kind": "reduce-on-plateau", "metric_key": "loss/test/total", "factor": 0.5, "patience": 1, "threshold": 0.5}


def rates(lines):
    return [line["metrics"]["optim/lr"] for line in lines if "optim/lr" in line["metrics"]]


def test_the_rate_falls_as_torch_s_does(finish, metric_lines):
    optimizer = {"kind": "SGD", "lr": 0.1, "schedule": PLATEAU}
    outcome = finish({"model.optimizer": optimizer, "trainer.callbacks": [OFFLINE_LOSS]})
    lines = metric_lines(outcome)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(plain, factor=0.5, patience=1, threshold=0.5)
    expected = []
    for line in lines:
        if "loss/test/total" in line["metrics"]:
            expected.append(plain.param_groups[0]["lr"])
            scheduler.step(line["metrics"]["loss/test/total"])
    assert rates(lines) == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_a_schedule_that_follows_a_metric_is_resumed_exactly(is_resumed_exactly):
    optimizer = {"kind": "SGD", "lr": 0.1, "schedule": PLATEAU}
    assert is_resumed_exactly(optimizer, [5, 6], [OFFLINE_LOSS])


def checked(noether_command, tiny_spec, schedule, **trainer):
    tiny_spec["model"]["optimizer"]["schedule"] = schedule
    tiny_spec["trainer"].update({"callbacks": [OFFLINE_LOSS], **trainer})
    Path("plateau.toml").write_text(tomli_w.dumps(tiny_spec))
    return noether_command("check", "plateau.toml")


@pytest.mark.parametrize("kind", ["ScheduleFree", "Sharpness"])
def test_the_size_of_their_checkpoints_is_planned(noether_command, tiny_spec, lab, kind):
    tiny_spec["model"]["optimizer"] = {"kind": f"lab.optimizers.{kind}"}
    Path("plan.toml").write_text(tomli_w.dumps(tiny_spec))
    assert noether_command("plan", "plan.toml").code == 0


def test_a_metric_that_nothing_logs_is_found_by_check(noether_command, tiny_spec):
    ended = checked(noether_command, tiny_spec, {**PLATEAU, "metric_key": "loss/tset/total"})
    assert ended.code == 2
    assert "unlogged-metric" in ended.err
    assert "loss/test/total" in ended.err


def test_a_metric_without_a_direction_is_found_by_check(noether_command, tiny_spec):
    callbacks = [{"kind": "peak-memory", "every_n_epochs": 1}]
    schedule = {**PLATEAU, "metric_key": "profiling/peak_memory"}
    ended = checked(noether_command, tiny_spec, schedule, callbacks=callbacks)
    assert ended.code == 2


def test_the_direction_that_a_callback_declares_counts(noether_command, tiny_spec, lab, finish, metric_lines):
    scores = {"kind": "lab.callbacks.Scores", "every_n_updates": 1}
    schedule = {**PLATEAU, "metric_key": "score/test", "patience": 0, "threshold": 0.0}
    assert checked(noether_command, tiny_spec, schedule, callbacks=[scores]).code == 0
    optimizer = {"kind": "SGD", "lr": 0.1, "schedule": schedule}
    outcome = finish({"model.optimizer": optimizer, "trainer.callbacks": [scores]})
    assert set(rates(metric_lines(outcome))) == {0.1}


def test_a_direction_that_nothing_tells_is_refused_before_training(refusal):
    schedule = {**PLATEAU, "metric_key": "profiling/peak_memory"}
    assert "profiling/peak_memory" in refusal({"kind": "SGD", "lr": 0.1, "schedule": schedule})


def test_a_metric_that_is_logged_too_rarely_is_noted_by_check(noether_command, tiny_spec):
    rare = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    ended = checked(noether_command, tiny_spec, PLATEAU, callbacks=[rare])
    assert ended.code == 0
    assert "2 times" in ended.out + ended.err


def test_a_metric_that_was_never_logged_is_warned_of_at_the_end(tiny_spec, lab, capsys):
    tiny_spec["model"]["optimizer"]["schedule"] = {**PLATEAU, "metric_key": "loss/other"}
    tiny_spec["trainer"]["callbacks"] = [{"kind": "lab.callbacks.Counts", "every_n_updates": 1}]
    noether.run(tiny_spec, quiet=True)
    assert "loss/other" in capsys.readouterr().out


def state_of(outcome):
    folder = checkpoint_folders(outcome.run_dir / "checkpoints")[-1]
    return json.loads((folder / "trainer.json").read_text())["optimizer"]["model"]


def test_optimizers_of_torch_keep_the_format_of_their_state(finish):
    assert state_of(finish()).keys() == {"class", "groups", "state"}
