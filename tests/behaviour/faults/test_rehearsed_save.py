"""State that cannot be saved is reported before training, not at the first checkpoint."""


def test_a_state_that_no_checkpoint_can_hold_ends_the_run_before_its_first_update(run, lab):  # G4
    unsavable = {"kind": "lab.failing.Unsavable", "id": "mine", "every_n_epochs": 2}
    outcome = run({"trainer.callbacks": [unsavable]})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    for fact in ("callback 'mine'", "builtin_function_or_method", "'seen/files/0'"):
        assert fact in str(outcome.error)
    assert "E0_U0_S0" in (outcome.run_dir / "log.txt").read_text().splitlines()[-1]
