"""System 2: lips and speech by one deep relational model, in both directions."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundvid.systems.spec import EvaluationOptions, Generated, Option, Stage, SystemSpec

if TYPE_CHECKING:
    from soundvid.metrics.table import Evaluation
    from soundvid.reports.run_page import PageRun, Section
    from soundvid.store.load import Clips
    from soundvid.systems.deep_relational.config import Config
    from soundvid.training.run import OpenRun
    from soundvid.training.system import Examples, Options, Purpose, System


def _baseline_presets() -> "Mapping[str, Options]":
    from soundvid.systems.deep_relational.config import BASELINES

    return BASELINES


def _likelihood_presets() -> "Mapping[str, Options]":
    from soundvid.systems.deep_relational.config import LIKELIHOOD

    return LIKELIHOOD


def _fine_tuning_presets() -> "Mapping[str, Options]":
    from soundvid.systems.deep_relational.config import FINE_TUNING

    return FINE_TUNING


def _examples(config: "Config", clips: "Clips", purpose: "Purpose") -> "Examples":
    from soundvid.systems.deep_relational.data import RelationExamples

    return RelationExamples(config, clips, purpose)


def _make_baselines(config: "Config", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.deep_relational.system import BaselineSystem

    return BaselineSystem(config, facts)


def _make_likelihood(config: "Config", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.deep_relational.system import LikelihoodSystem

    return LikelihoodSystem(config, facts, earlier)


def _make_fine_tuning(config: "Config", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.deep_relational.system import FineTuningSystem

    return FineTuningSystem(config, facts, earlier)


def _generate(run: "OpenRun", target: Path, **given: Any) -> Generated:
    from soundvid.systems.deep_relational.generate import generate

    return generate(run, target, **given)


def _evaluate(run: "OpenRun", split: str, options: EvaluationOptions) -> "Evaluation":
    from soundvid.systems.deep_relational.evaluate import evaluate

    return evaluate(run, split, clips=options.clips, progress=options.progress)


def _report(run: "PageRun") -> "list[Section]":
    from soundvid.systems.deep_relational.report import sections

    return sections(run)


spec = SystemSpec(
    name="deep_relational",
    summary="lips <-> speech: one deep relational model for both directions",
    presets=("paper", "recommended", "tiny"),
    stages=(
        Stage("baselines", _baseline_presets, _examples, _make_baselines),
        Stage("likelihood", _likelihood_presets, _examples, _make_likelihood),
        Stage("fine_tuning", _fine_tuning_presets, _examples, _make_fine_tuning),
    ),
    inputs=(
        Option("sound", "sound", "speech to make lips of (mp4).", short="-s"),
        Option("video", "video", "lips to make speech of (wav); with --sound, what the lips are pasted into."),
        Option("box", "box", "where the video's lips are; by default where the recipe's crop finds them."),
        Option("scale", "integer", "enlarge the lips, or the video, this many times.", least=1),
    ),
    outputs=("video", "sound"),
    generate=_generate,
    evaluate=_evaluate,
    report=_report,
    charts=((r"^(speech|lips)$", "Squared error of each direction"),),
    validation_charts=((r"^r2", "Validation, share of variance explained"),),
    usage="--sound voice.wav --out lips.mp4   # or: --video someone.mp4 --out speech.wav",
)
