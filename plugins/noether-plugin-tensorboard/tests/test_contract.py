"""The tracker keeps the contract of its role."""

from pathlib import Path

import pytest

from noether.testing import TrackerContract


class TestTensorboard(TrackerContract):
    config = {"kind": "tensorboard/tensorboard"}


@pytest.mark.long
class TestInAFolderOfItsOwn(TrackerContract):
    config = {"kind": "tensorboard", "folder": "logs"}

    @pytest.fixture(autouse=True)
    def _in_an_empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
