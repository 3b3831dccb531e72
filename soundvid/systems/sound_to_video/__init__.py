"""System 1: a video from one image and a sound (ja and en papers, "image and sound to video")."""

from pathlib import Path
from typing import Any

from soundvid.systems.sound_to_video.config import PRESETS, Config
from soundvid.systems.sound_to_video.examples import SoundToVideoExamples
from soundvid.systems.sound_to_video.system import SoundToVideo
from soundvid.training.stage import Definition, Stage


def _make(config: Config, facts: dict[str, Any], run: Path | None) -> SoundToVideo:
    return SoundToVideo(config, facts)


definition = Definition(
    "sound_to_video",
    "one image + sound -> video",
    (Stage("sound_to_video", PRESETS, SoundToVideoExamples, _make),),
)
