"""System 3: a swipe on a picture of a face to the video in which it moves so (iPOKE, and a cheaper form of it)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundvid.systems.spec import EvaluationOptions, Generated, Option, Remade, Stage, SystemSpec

if TYPE_CHECKING:
    from soundvid.metrics.table import Evaluation
    from soundvid.reports.run_page import PageRun, Section
    from soundvid.store.load import Clips
    from soundvid.systems.ipoke.config import Shared
    from soundvid.training.run import OpenRun
    from soundvid.training.system import Examples, Options, Purpose, System


def _video_presets() -> "Mapping[str, Options]":
    from soundvid.systems.ipoke.config import VIDEO

    return VIDEO


def _condition_presets() -> "Mapping[str, Options]":
    from soundvid.systems.ipoke.config import CONDITION

    return CONDITION


def _motion_presets() -> "Mapping[str, Options]":
    from soundvid.systems.ipoke.config import MOTION

    return MOTION


def _examples(config: "Shared", clips: "Clips", purpose: "Purpose") -> "Examples":
    from soundvid.systems.ipoke.data import PokeExamples

    return PokeExamples(config, clips, purpose)


def _check(config: "Shared") -> None:
    """Raise MissingWeights where landmarks are asked for and cannot be found."""
    if config.landmarks:
        from soundvid.systems.ipoke.landmarks import LandmarkFinder

        LandmarkFinder()


def _make_video(config: Any, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.ipoke.system import VideoSystem

    return VideoSystem(config, facts)


def _make_condition(config: Any, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.ipoke.system import ConditionSystem

    return ConditionSystem(config, facts, earlier)


def _make_motion(config: Any, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.ipoke.system import MotionSystem

    return MotionSystem(config, facts, earlier)


def _generate(run: "OpenRun", target: Path, **given: Any) -> Generated:
    from soundvid.systems.ipoke.generate import generate

    return generate(run, target, **given)


def _evaluate(run: "OpenRun", split: str, options: EvaluationOptions) -> "Evaluation":
    from soundvid.systems.ipoke.evaluate import evaluate

    return evaluate(run, split, options)


def _remake(run: "OpenRun", clip: "Clips", seed: int) -> Remade:
    from soundvid.systems.ipoke.evaluate import remake

    return remake(run, clip, seed)


def _report(run: "PageRun") -> "list[Section]":
    from soundvid.systems.ipoke.report import sections

    return sections(run)


spec = SystemSpec(
    name="ipoke",
    summary="one image + swipes on it -> video",
    presets=("paper", "recommended", "small", "tiny"),
    stages=(
        Stage("video", _video_presets, _examples, _make_video, _check),
        Stage("condition", _condition_presets, _examples, _make_condition, _check),
        Stage("motion", _motion_presets, _examples, _make_motion, _check),
    ),
    inputs=(
        Option("image", "image", "the picture that is swiped.", required=True, short="-i"),
        Option("poke", "pokes", "a swipe: from pixel X,Y of the picture by DX,DY pixels; may be given several times."),
        Option("still", "boxes", "a part of the picture that stays as it is; may be given several times."),
        Option("samples", "integer", "so many videos of the same swipe, side by side.", least=1, most=16),
        Option(
            "seconds",
            "number",
            "how long the video lasts; longer than one answer to the swipe (default): back to the picture, "
            "and another answer.",
        ),
        Option("temperature", "number", "0: the most likely motion; 1 (default): as varied as the training's."),
        Option("seed", "integer", "another number gives other samples.", least=0),
        Option("box", "box", "the square of the picture that moves; by default the largest one in the middle."),
    ),
    outputs=("video",),
    generate=_generate,
    evaluate=_evaluate,
    report=_report,
    remake=_remake,
    charts=(
        (r"^l1$", "L1"),
        (r"^(image|flow)$", "Reconstruction of image and flow"),
        (r"^paint$", "Error that paint leaves, of what the true flow leaves"),
        (r"^loss$", "Loss"),
        (r"^without_face$", "Share of pictures without a face"),
        (r"^gradient", "Gradient norm"),
    ),
    validation_charts=(
        (r"^(l1|l1_copy)$", "Validation L1"),
        (r"^squared$", "Validation squared error"),
        (r"^loss$", "Validation loss"),
    ),
    usage="--image face.png --poke 120,160,0,12 --samples 4 --out video.mp4",
)
