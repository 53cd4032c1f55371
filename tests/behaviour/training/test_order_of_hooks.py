"""The order of hooks, and the metrics of one line."""

import json


def calls(folder):
    return (folder / "calls.txt").read_text().splitlines()


def test_hooks_fire_in_the_documented_order(finish, lab):
    diary = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_updates": 1}
    limits = {"trainer.max_epochs": None, "trainer.max_updates": 1, "trainer.max_batch_size": 4}
    finish({**limits, "trainer.callbacks": [diary]})
    assert calls(lab.parent) == [
        "before_training E0_U0_S0",
        "track_after_accumulation_step E0_U0_S0",
        "  1 of 2: 4 samples, losses total,y_loss",
        "before_optimizer_step E0_U0_S0",
        "track_after_accumulation_step E0_U0_S0",
        "  2 of 2: 4 samples, losses total,y_loss",
        "track_after_update_step E0_U1_S8",
        "diary: update E0_U1_S8",
        "after_training E0_U1_S8",
        "close",
    ]


def test_at_the_end_of_an_epoch_update_and_sample_intervals_come_before_epoch_intervals(finish, lab):
    kind = "lab.callbacks.Moments"
    finish(
        {
            "trainer.max_epochs": 1,
            "trainer.callbacks": [
                {"kind": kind, "id": "epoch-first-in-spec", "every_n_epochs": 1},
                {"kind": kind, "id": "updates", "every_n_updates": 3},
                {"kind": kind, "id": "samples", "every_n_samples": 20},
                {"kind": kind, "id": "epoch-last-in-spec", "every_n_epochs": 1},
            ],
        }
    )
    assert calls(lab.parent) == [
        "updates: update E0_U3_S24",
        "samples: sample E0_U3_S24",
        "samples: sample E0_U5_S40",
        "updates: update E1_U6_S48",
        "epoch-first-in-spec: epoch E1_U6_S48",
        "epoch-last-in-spec: epoch E1_U6_S48",
    ]


def test_the_metrics_of_one_update_are_one_line(finish, lab, metric_lines):
    kind = "lab.callbacks.Moments"
    outcome = finish(
        {
            "trainer.max_epochs": 1,
            "trainer.add_default_callbacks": False,
            "trainer.callbacks": [
                {"kind": kind, "id": "epochs", "every_n_epochs": 1},
                {"kind": kind, "id": "updates", "every_n_updates": 2},
                {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
            ],
        }
    )
    lines = metric_lines(outcome)
    assert [(line["update"], line["epoch"], line["sample"]) for line in lines] == [(2, 0, 16), (4, 0, 32), (6, 1, 48)]
    assert list(lines[-1]["metrics"]) == ["updates", "epochs", "loss/test/y_loss", "loss/test/total"]


def test_what_before_training_logs_is_the_line_of_the_starting_update(finish, metric_lines):
    first = metric_lines(finish())[0]
    assert first["update"] == 0
    assert first["metrics"]["data/train/samples"] == 48


def test_what_after_training_logs_belongs_to_the_last_update(finish, lab, metric_lines):
    last = metric_lines(finish({"trainer.callbacks": [{"kind": "lab.callbacks.LastWords", "every_n_epochs": 1}]}))[-1]
    assert (last["update"], last["metrics"]["last/words"]) == (12, 1.0)


def test_before_optimizer_step_sees_gradients_that_are_not_clipped_yet(finish, lab, metric_lines):
    look = [{"kind": kind, "every_n_updates": 1} for kind in ("lab.callbacks.GradientNorm", "training-stability", "lr")]
    clip = {"model.optimizer.clip_grad_norm": 1e-3}
    for line in metric_lines(finish({**clip, "trainer.callbacks": look}))[1:]:
        metrics = line["metrics"]
        assert metrics["seen/grad_norm"] > 1e-2
        assert abs(metrics["seen/grad_norm"] - metrics["optim/grad_norm"]) < 1e-4 * metrics["optim/grad_norm"]
        assert abs(metrics["stability/gradient_norm"] - metrics["optim/grad_norm"]) < 1e-4 * metrics["optim/grad_norm"]


def test_the_run_folder_holds_both_specs_and_the_attempt(finish):
    folder = finish().run_dir
    record = json.loads((folder / "attempts/0001.json").read_text())
    assert record["status"] == "FINISHED"
    assert record["reason"] is None
    assert {path.name for path in folder.iterdir()} >= {"spec.toml", "spec.resolved.toml", "run.json", "log.txt"}
