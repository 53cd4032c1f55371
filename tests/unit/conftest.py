"""Settings of every property test, and the golden files of messages."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline measures how busy the machine is, and the first example pays for whatever is imported or allocated first.
settings.register_profile("noether", deadline=None)
settings.load_profile("noether")

_PLACE = re.compile(r"\([^()\s]+\.py:\d+\)")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Mapping[str, Callable[[], object]]], None]:
    """Compare the errors that calls raise with `messages.txt` beside the test.

    NOETHER_REWRITE_MESSAGES=1 rewrites the file instead. The folder of the test is written as `<tmp>`, and a line of
    code as `<place>`.
    """

    def compare(calls: Mapping[str, Callable[[], object]]) -> None:
        found = ""
        for name, call in calls.items():
            with pytest.raises(Exception) as caught:  # the type is written down as well
                call()
            text = _PLACE.sub("(<place>)", str(caught.value).replace(str(tmp_path), "<tmp>"))
            found += f"{name}\n{caught.typename}: {text}\n\n"
        path = request.path.with_name("messages.txt")
        if os.environ.get("NOETHER_REWRITE_MESSAGES"):
            path.write_text(found, encoding="utf-8")
        assert found == path.read_text(encoding="utf-8")

    return compare
