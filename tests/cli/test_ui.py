"""Progress as a person sees it on a terminal, and as a log file gets it."""

import io
import threading

import pytest
import typer
from rich.console import Console

from soundvid.cli import ui
from tests.helpers.waiting import PATIENCE


def shown(**options) -> tuple[io.StringIO, ui.ConsoleProgress]:
    text = io.StringIO()
    return text, ui.ConsoleProgress(Console(file=text, width=200, highlight=False), **options)


def test_a_line_says_the_phase_the_count_and_what_is_in_work():
    _, progress = shown()
    progress.phase("rendering", 4)
    progress.step()
    progress.progress("clap.mp4", 0.4)
    progress.moved("drum.mp4", 3_000_000, 6_000_000, 1_500_000)
    assert progress.line() == "rendering: 1/4, clap.mp4 40%, drum.mp4 3.0 MB at 1.5 MB/s (0:00 so far)"
    progress.source("clap.mp4", "kept", "")
    assert "clap.mp4" not in progress.line()
    progress.phase("merging shards", None)
    assert progress.line() == "merging shards (0:00 so far)"
    progress.phase("generating", None, "s")
    progress.update(7.2)
    assert progress.line().startswith("generating: 7 s")
    progress.update(8, 16, note="the last part")
    assert progress.line().startswith("generating: 8/16 s, the last part")


def test_steps_of_several_threads_all_count():
    _, progress = shown()
    progress.phase("reading", 8000)
    threads = [threading.Thread(target=lambda: [progress.step() for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.line().startswith("reading: 8000/8000")


def test_off_a_terminal_lines_come_although_no_callback_does():
    class Told(io.StringIO):
        line = threading.Event()

        def write(self, text: str) -> int:
            if "so far" in text:
                self.line.set()
            return super().write(text)

    file = Told()
    with ui.ConsoleProgress(Console(file=file, width=200), interval=0.001) as progress:
        progress.phase("decoding one long video", 1)
        assert file.line.wait(PATIENCE)
    assert "decoding one long video:   0%" not in file.getvalue()
    assert "decoding one long video: 0%" in file.getvalue()


def test_a_terminal_gets_bars_and_no_lines():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with ui.ConsoleProgress(console, interval=0.001) as progress:
        progress.phase("verifying", 2, "samples")
        progress.step()
        progress.step()
    assert "verifying" in text.getvalue() and "2/2 samples" in text.getvalue()
    assert "so far" not in text.getvalue()


def test_only_sources_that_were_left_out_get_a_line_and_their_names_are_no_markup():
    text, progress = shown(max_lines=2, see_also="'soundvid sources list' lists them all")
    for outcome, name in (
        ("fetched", "a"),
        ("rejected", "b[red].mp4"),
        ("failed", "c"),
        ("failed", "d"),
        ("failed", "e"),
    ):
        progress.source(name, outcome, "no sound track")
    progress.warn("x [bold]")
    assert text.getvalue().splitlines() == [
        "rejected b[red].mp4: no sound track",
        "failed c: no sound track",
        "... and more: 'soundvid sources list' lists them all",
        "warning x [bold]",
    ]


def test_an_interrupt_is_one_sentence_and_the_status_of_a_shell(capsys):
    with pytest.raises(typer.Exit) as ended, ui.interruptible("stopped; run the command again to continue"):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "stopped; run the command again to continue\n"
