"""The order in which the tests' files start."""

from pathlib import Path

from tests.conftest import LONGEST_FIRST


def test_files_that_start_first_are_there():
    """A file that was renamed would start late, and nobody would notice but by the clock."""
    assert [name for name in LONGEST_FIRST if not (Path(__file__).parent / f"{name}.py").exists()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)
