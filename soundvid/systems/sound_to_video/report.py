"""What system 1 shows on the page of its run: clips that play beside the original, and the papers' figures."""

from typing import Any

from markupsafe import Markup

from soundvid.reports.run_page import PageRun
from soundvid.reports.section import Section
from soundvid.reports.version_page import environment
from soundvid.systems.sound_to_video.figures import EVERY, gallery


def sections(run: PageRun) -> list[Section]:
    """Made anew with the run's networks; none where there is no checkpoint, or the clips are gone."""
    from soundvid.systems.sound_to_video.generate import model_of

    if run.opened is None or run.release is None:
        return []
    drawn = gallery(run.opened.clips(run.held_out), model_of(run.opened))
    module: Any = environment().get_template("systems/sound_to_video/report.html.j2").make_module({"g": drawn})
    return [
        Section(
            "clips",
            "Clips",
            "Real and generated",
            "From the first picture of each held-out clip and its sound alone. Play one to hear what moves it; click "
            "into its lanes to play from there.",
            Markup(module.pairs()),
            first=True,
        ),
        Section(
            "figures",
            "Figures",
            "The papers' figures",
            f"Every {EVERY}th picture, each below its stretch of the waveform.",
            Markup(module.figures()),
            first=True,
        ),
    ]
