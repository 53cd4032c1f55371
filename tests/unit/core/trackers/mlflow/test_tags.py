import subprocess

from noether.core.trackers import RunDescription
from noether.core.trackers.mlflow.tracker import run_tags
from noether.metrics.delivery import git_commit


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_the_one_of_the_specs_folder(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "a.toml").write_text("spec = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    run = RunDescription("r-1", "n", tmp_path / "run", spec_path=tmp_path / "specs" / "a.toml", tags={"mine": "yes"})
    tags = run_tags(run, "r-1")
    assert tags["mlflow.source.git.commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert tags["mlflow.source.name"] == str(tmp_path / "specs" / "a.toml")
    assert (tags["mlflow.runName"], tags["noether.run_id"], tags["mine"]) == ("r-1", "r-1", "yes")


def test_a_folder_without_a_repository_or_commit_has_no_commit(tmp_path):
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None


def test_a_fact_that_is_not_known_has_no_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tags = run_tags(RunDescription("r-1", "n", tmp_path), "r-1")
    assert not {"mlflow.source.name", "mlflow.source.git.commit", "mlflow.note.content"} & set(tags)
