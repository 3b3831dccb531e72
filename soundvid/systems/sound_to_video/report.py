"""What sound_to_video adds to the page of its run: clips that play next to the original, and the papers' figures."""

from typing import Any

from markupsafe import Markup

from soundvid.reports.run_page import PageRun, Section
from soundvid.reports.version_page import environment
from soundvid.systems.sound_to_video.figures import EVERY, gallery
from soundvid.systems.sound_to_video.generate import TrainedModel


def sections(run: PageRun) -> list[Section]:
    """Made with the run's networks from clips that it did not learn from."""
    assert run.opened is not None
    drawn = gallery(run.opened.clips(run.held_out), TrainedModel(run.opened))
    module: Any = environment().get_template("systems/sound_to_video/report.html.j2").make_module({"g": drawn})
    return [
        Section(
            "clips",
            "Clips",
            "Real and generated",
            "From the first picture of each held-out clip and its sound alone. Play one to hear its sound; click "
            "into its lanes to play from there.",
            Markup(module.pairs()),
            first=True,
        ),
        Section(
            "figures",
            "Figures",
            "The papers' figures",
            f"Every {EVERY}th picture, each below its part of the waveform.",
            Markup(module.figures()),
            first=True,
        ),
    ]
