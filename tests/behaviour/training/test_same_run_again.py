"""The resolved spec determines a run; the way its data is loaded does not matter."""

import multiprocessing

import noether

NOISY = {
    "datasets": {
        "train": {"kind": "lab.data.Noisy"},
        "test": {"kind": "lab.data.Noisy", "split": "test"},
    }
}


def test_the_resolved_spec_is_the_same_run(finish, final_weights):
    first = finish({"model.dropout": 0.2})
    again = noether.run(first.run_dir / "spec.resolved.toml", quiet=True)
    assert final_weights(again) == final_weights(first)
    resolved = [(one.run_dir / "spec.resolved.toml").read_text() for one in (first, again)]
    assert resolved[0] == resolved[1]


def test_a_run_from_a_file_is_the_run_from_the_same_tables(finish, final_weights, workplace):
    first = finish()
    spec = workplace / "tiny.toml"
    spec.write_text((first.run_dir / "spec.toml").read_text())
    assert final_weights(noether.run(spec, quiet=True)) == final_weights(first)


def test_workers_change_no_bit(finish, final_weights):
    watch = [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]
    alone, helped = (finish({"loader.num_workers": n, "trainer.callbacks": watch}) for n in (0, 2))
    assert final_weights(alone) == final_weights(helped)
    assert alone.metrics["loss/test/total"] == helped.metrics["loss/test/total"]


def test_workers_change_no_bit_of_a_randomly_augmented_run(finish, final_weights, lab):
    watch = [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]
    changes = {**NOISY, "trainer.callbacks": watch, "model.dropout": 0.2}
    alone, helped = (finish({**changes, "loader.num_workers": n}) for n in (0, 2))
    assert final_weights(alone) == final_weights(helped)
    assert alone.metrics["loss/test/total"] == helped.metrics["loss/test/total"]


def test_no_worker_outlives_its_run(finish, lab):
    watch = {"kind": "lab.callbacks.Workers", "every_n_updates": 1}
    outcome = finish({"loader.num_workers": 2, "trainer.callbacks": [watch]})
    assert outcome.metrics["workers"] == 2
    assert multiprocessing.active_children() == []


def test_the_trainers_prefetch_factor_overrides_that_of_the_loader(finish, lab):
    watch = {"kind": "lab.callbacks.Workers", "every_n_updates": 1}
    loader = {"loader": {"num_workers": 1, "prefetch_factor": 3}, "trainer.callbacks": [watch]}
    assert finish(loader).metrics["prefetch"] == 3
    assert finish({**loader, "trainer.dataloader_prefetch_factor": 5}).metrics["prefetch"] == 5


def test_no_worker_outlives_a_run_that_failed(run, lab):
    outcome = run(
        {"loader.num_workers": 2, "trainer.callbacks": [{"kind": "lab.callbacks.Fails", "every_n_updates": 3}]}
    )
    assert isinstance(outcome.error, ZeroDivisionError)
    assert multiprocessing.active_children() == []


def test_augmentation_leaves_the_initial_weights_alone(finish, final_weights, lab):
    none = {"trainer.max_epochs": None, "trainer.max_updates": 1, "model.optimizer.lr": 0.0}
    noisy = {"datasets.train": {"kind": "lab.data.Noisy"}}
    assert final_weights(finish(none)) == final_weights(finish({**none, **noisy}))
