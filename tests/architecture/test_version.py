"""The version of a build comes from the tag of its release."""

import subprocess
from pathlib import Path
from runpy import run_path

import pytest
from packaging.version import Version

VERSION = run_path(str(Path(__file__).parents[2] / ".ci" / "version.py"))
NEXT = VERSION["NEXT"]


@pytest.fixture
def repository(tmp_path: Path):
    """Return a function that calls git in a new repository with one commit."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    return git


def test_before_the_first_tag_the_version_is_that_of_the_next_release(repository, tmp_path):
    assert VERSION["version"](tmp_path) == NEXT


def test_without_a_repository_the_version_is_that_of_the_next_release(tmp_path):
    assert VERSION["version"](tmp_path) == NEXT


def test_at_a_tag_the_version_is_that_of_the_tag(repository, tmp_path):
    repository("tag", "v3.1.4")
    repository("tag", "another")
    assert VERSION["version"](tmp_path) == "3.1.4"


def test_after_a_tag_the_version_lies_between_both_releases(repository, tmp_path):
    repository("tag", "v0.0.1")
    repository("commit", "--allow-empty", "-m", "second")
    found = Version(VERSION["version"](tmp_path))
    assert Version("0.0.1") < found < Version(NEXT)
    assert (found.dev, str(found.local)[0]) == (1, "g")


def test_a_commit_after_a_release_must_raise_the_next_version(repository, tmp_path):
    repository("tag", f"v{NEXT}")
    repository("commit", "--allow-empty", "-m", "second")
    with pytest.raises(SystemExit, match="raise NEXT"):
        VERSION["version"](tmp_path)
