"""Ids that name files and folders of a checkpoint."""

from __future__ import annotations

import pytest

from noether.spec.fields import ID


@pytest.mark.parametrize("name", ["val", "0.9", "a.b", "_a", "a-", "a..b"])
def test_an_id_is_lower_case_letters_digits_dots_underscores_and_dashes(name: str) -> None:
    assert ID.fullmatch(name)


@pytest.mark.parametrize("name", ["", "Val", "a/b", "a b", ".", "..", "..."])
def test_no_id_leads_out_of_the_folder_of_its_callback(name: str) -> None:
    assert not ID.fullmatch(name)
