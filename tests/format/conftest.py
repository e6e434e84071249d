"""The small file, made once for all tests of the format."""

from __future__ import annotations

import pytest

from tests.format.files import small_file
from tests.format.mutate import Editor


@pytest.fixture(scope="session")
def blob(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small file with a section of every kind and 51 chunks; HEAD and WGHT are compressed."""
    blob = small_file(tmp_path_factory.mktemp("small") / "a.cinr")
    edit = Editor(blob)
    assert [edit.data[edit.entry(n) + 4] for n in range(7)] == [1, 0, 0, 0, 0, 1, 0]
    return blob
