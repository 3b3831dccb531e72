"""Facts of the result table: nothing is lost on the way through JSON, and no number hides where it came from."""

import io
import math

import pytest
from rich.console import Console

from soundvid.metrics.table import Evaluation, Measure, Row, Table, number


def example() -> Table:
    system = [
        Measure("ssim", 0.9123, "", 0.9, 0.9311, 48, 6, "higher", "Gaussian 11x11, sigma 1.5"),
        Measure("lag", 2.0, "frames", n=30, sources=5, better="zero"),
        Measure("fvd", None, n=0, better="lower", definition="I3D", missing="weights missing"),
    ]
    baseline = [Measure("ssim", 0.5, n=48, sources=6, better="higher", definition="Gaussian 11x11, sigma 1.5")]
    rows = (Row("ours | theirs", "system", tuple(system), "seen"), Row("copy first", "baseline", tuple(baseline)))
    return Table("quality", rows, ("a note",))


def test_json_gives_the_same_table_back():
    table = example()
    assert Table.from_json(table.to_json()) == table
    with pytest.raises(ValueError, match="format 99"):
        Table.from_dict({**table.to_dict(), "format": 99})


def test_an_evaluation_is_read_back_from_the_run_s_folder(tmp_path):
    rows = ({"key": "a", "source": "v1", "row": "system", "ssim": 0.5, "lag": None},)
    made = Evaluation("test", 1, 1, (example(),), {"step": 3}, rows)
    path = made.save(tmp_path)
    assert path == tmp_path / "evaluation" / "test.json"
    assert Evaluation.load(path) == made


def test_a_measure_is_a_finite_number_or_says_why_there_is_none():
    with pytest.raises(ValueError, match="missing"):
        Measure("ssim", math.nan)
    with pytest.raises(ValueError, match="missing"):
        Measure("ssim", None)
    assert Measure("fvd", None, missing="weights missing").text() == "not computed: weights missing"


def test_views_show_every_number_with_its_n_interval_and_definition():
    table = example()
    page = table.markdown()
    assert (
        "|  | ours \\| theirs | copy first |" in page and "| N | 48 clips of 6 videos | 48 clips of 6 videos |" in page
    )
    assert "| condition | seen |  |" in page
    assert "| ssim ↑ | 0.912 [0.900, 0.931] | 0.500 |" in page
    assert "| lag (frames) →0 | 2.00 (N 30) | - |" in page  # fewer clips than the row's other measures
    assert "| fvd ↓ | not computed: weights missing | - |" in page
    assert "- ssim: Gaussian 11x11, sigma 1.5" in page and "- a note" in page
    screen = io.StringIO()
    Console(file=screen, width=120).print(table.rich())
    assert "0.912 [0.900, 0.931]" in screen.getvalue() and "weights missing" in screen.getvalue()


def test_rows_and_measures_are_found_by_name():
    assert example().row("copy first")["ssim"].value == 0.5
    with pytest.raises(KeyError, match="there are ssim"):
        example().row("copy first")["psnr"]


def test_numbers_read_well():
    assert [number(v) for v in (0, 0.91234, 31.234, 1240.4, -2.5, 1.23e-5)] == [
        "0",
        "0.912",
        "31.2",
        "1240",
        "-2.50",
        "1.23e-05",
    ]
