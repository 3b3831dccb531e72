"""System 1: a video from one image and a sound (ja and en papers, "image and sound to video")."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundvid.systems.spec import EvaluationOptions, Generated, Option, Remade, Stage, SystemSpec

if TYPE_CHECKING:
    from soundvid.metrics.table import Evaluation
    from soundvid.reports.run_page import PageRun, Section
    from soundvid.store.load import Clips
    from soundvid.systems.sound_to_video.config import Config
    from soundvid.training.run import OpenRun
    from soundvid.training.system import Examples, Options, Purpose, System


def _presets() -> "Mapping[str, Options]":
    from soundvid.systems.sound_to_video.config import PRESETS

    return PRESETS


def _examples(config: "Config", clips: "Clips", purpose: "Purpose") -> "Examples":
    from soundvid.systems.sound_to_video.data import SoundToVideoExamples

    return SoundToVideoExamples(config, clips, purpose)


def _make(config: "Config", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.sound_to_video.system import SoundToVideo

    return SoundToVideo(config, facts)


def _generate(run: "OpenRun", target: Path, **given: Any) -> Generated:
    from soundvid.systems.sound_to_video.generate import generate_with_run

    return generate_with_run(run, target, **given)


def _evaluate(run: "OpenRun", split: str, options: EvaluationOptions) -> "Evaluation":
    from soundvid.systems.sound_to_video.evaluate import evaluate_run

    return evaluate_run(run, split, options)


def _remake(run: "OpenRun", clip: "Clips", seed: int) -> Remade:
    from soundvid.systems.sound_to_video.evaluate import remake

    return remake(run, clip, seed)


def _report(run: "PageRun") -> "list[Section]":
    from soundvid.systems.sound_to_video.report import sections

    return sections(run)


spec = SystemSpec(
    name="sound_to_video",
    summary="one image + sound -> video",
    presets=("paper_ja", "paper_en", "recommended", "tiny"),
    stages=(Stage("sound_to_video", _presets, _examples, _make),),
    inputs=(
        Option("image", "image", "PNG, JPEG, WebP ...; of a video its first picture. Its middle is taken.",
               required=True, short="-i"),
        Option("sound", "sound", "WAV, FLAC, MP3, M4A, Ogg ..., or a video's sound track; of any length.",
               required=True, short="-s"),
        Option("scale", "integer", "enlarge the pictures this many times.", least=1),
        Option("size", "integer", "pixels a side instead.", least=16, most=4096),
        Option("sample", "integer", "another motion that the sound allows: 1, 2, ... (runs with variation).", least=1),
        Option("whole", "flag", "the whole square of the image, not the training's crop of it."),
    ),
    outputs=("video",),
    generate=_generate,
    evaluate=_evaluate,
    report=_report,
    remake=_remake,
    charts=(
        (r"(^|[_/])(real|fake|wrong)([_/]|$)", "Discriminators: how real they take what is real, and what is not"),
        (r"accuracy", "Accuracy of the discriminators"),
        (r"^share_", "Share of each loss in the gradient at the generated pictures"),
        (r"^l1$", "L1"),
        (r"^adversarial|^discriminator_(image|video)$|^squared$", "Losses"),
    ),
    validation_charts=((r"^l1", "Validation L1"), (r"correlation", "Validation correlations")),
    usage="--image face.jpg --sound voice.wav --out video.mp4 --scale 4",
)  # fmt: skip
