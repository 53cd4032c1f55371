"""The pages on looking at data, mixing and sampling them: their output and their specs are what the code gives."""

import subprocess
import sys
from pathlib import Path

import pytest

import noether
from noether.cli.main import main
from noether.runs.plan.plan import make_plan
from noether.spec.load import load_spec


def test_the_shown_data_are_what_the_command_prints(page, repository: Path, monkeypatch, capsys):
    shown = page["look-at-data.md"]
    (command,), (output,) = shown.blocks("console"), shown.blocks("text")
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", command.text.split())
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == output.text.strip()


def test_the_mixed_beams_train_in_epochs_of_the_length_that_the_page_says(page, project: Path):
    page["mix-data-sets.md"].write_files(project)
    (make_data,) = [block.text for block in page["mix-data-sets.md"].blocks("python")]
    subprocess.run([sys.executable, "-c", make_data], cwd=project, check=True)
    assert make_plan(load_spec("mixed.toml")).updates_per_epoch == 10
    outcome = noether.run("mixed.toml", quiet=True)
    assert outcome.status == "FINISHED"
    assert outcome.metrics["rmse/test/deflection"] < 2


def test_the_classes_of_the_balanced_digits_are_drawn_as_often_as_the_page_says(page, repository: Path):
    from noether.config.components import SamplingTable
    from noether.data.build import build_data

    spec = load_spec(repository / "specs" / "smoke" / "digits.toml").spec
    data = build_data(spec.datasets)
    table = SamplingTable(kind="balanced", by="label_target")
    batch = next(iter(data.build_loader(batch_size=1438, end_update=1, sampling=table))).batch
    counts = batch["label_target"].bincount().tolist()
    assert set(counts) == {143, 144}
    assert "143 or 144 times" in page["sample-unevenly.md"].text
