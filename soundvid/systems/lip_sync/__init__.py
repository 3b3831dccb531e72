"""System 4: speech to the moving mouth or vocal tract (wav2lip's form, and a cheaper one for little data)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundvid.systems.spec import EvaluationOptions, Generated, Option, Stage, SystemSpec

if TYPE_CHECKING:
    from soundvid.metrics.table import Evaluation
    from soundvid.reports.run_page import PageRun, Section
    from soundvid.store.load import Clips
    from soundvid.systems.lip_sync.config import ExpertConfig, LipSyncConfig
    from soundvid.training.run import OpenRun
    from soundvid.training.system import Examples, Options, Purpose, System


def _expert_presets() -> "Mapping[str, Options]":
    from soundvid.systems.lip_sync.config import EXPERT_PRESETS

    return EXPERT_PRESETS


def _expert_examples(config: "ExpertConfig", clips: "Clips", purpose: "Purpose") -> "Examples":
    from soundvid.systems.lip_sync.data import ExpertExamples

    return ExpertExamples(config, clips, purpose)


def _make_expert(config: "ExpertConfig", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.lip_sync.expert import ExpertSystem

    return ExpertSystem(config, facts)


def _presets() -> "Mapping[str, Options]":
    from soundvid.systems.lip_sync.config import PRESETS

    return PRESETS


def _examples(config: "LipSyncConfig", clips: "Clips", purpose: "Purpose") -> "Examples":
    from soundvid.systems.lip_sync.data import BasisExamples, PaperExamples

    return (BasisExamples if config.form == "basis" else PaperExamples)(config, clips, purpose)


def _make_generator(config: "LipSyncConfig", facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> "System":
    from soundvid.systems.lip_sync.system import LipSyncSystem, at_chance, usable_expert

    expert = earlier.get("expert")
    system = LipSyncSystem(config, facts, usable_expert(config, expert))
    system.warnings = at_chance(config, expert)
    return system


def _check(config: "ExpertConfig | LipSyncConfig") -> None:
    """Weights to begin from have to fit; the generator's, too, before the expert's hours."""
    if config.init:
        from soundvid.systems.lip_sync.config import ExpertConfig
        from soundvid.systems.lip_sync.expert import load_public_weights, make_expert
        from soundvid.systems.lip_sync.system import make_generator

        network = make_expert(config) if isinstance(config, ExpertConfig) else make_generator(config)
        load_public_weights(network, config.form, config.init)


def _generate(run: "OpenRun", target: Path, **given: Any) -> Generated:
    from soundvid.systems.lip_sync.generate import generate

    return generate(run, target, **given)


def _evaluate(run: "OpenRun", split: str, options: EvaluationOptions) -> "Evaluation":
    from soundvid.systems.lip_sync.evaluate import evaluate

    return evaluate(run, split, clips=options.clips, progress=options.progress)


def _report(run: "PageRun") -> "list[Section]":
    from soundvid.systems.lip_sync.report import sections

    return sections(run)


spec = SystemSpec(
    name="lip_sync",
    summary="speech -> real-time MRI of the vocal tract, or lips: a sync expert, then a generator",
    presets=("paper", "recommended", "tiny"),
    stages=(
        Stage("expert", _expert_presets, _expert_examples, _make_expert, _check),
        Stage("generator", _presets, _examples, _make_generator, _check),
    ),
    inputs=(
        Option("sound", "sound", "the speech: a sound file or a video's sound track.", required=True, short="-s"),
        Option("video", "video", "a video whose mouth, or tongue, is made anew."),
        Option("image", "image", "one picture instead of a video.", short="-i"),
        Option("box", "box", "where the mouth or vocal tract is; by default the recipe's box."),
        Option("scale", "integer", "enlarge the video this many times.", least=1),
        Option("whole", "flag", "the whole box is made anew, not its lower half."),
    ),
    outputs=("video",),
    generate=_generate,
    evaluate=_evaluate,
    report=_report,
    train_options=(
        Option("init", "file", "wav2lip's public wav2lip.pth to begin from (preset paper).", sets="generator.init"),
    ),
    charts=(
        (r"accuracy", "Accuracy of expert and discriminator"),
        (r"^l1$", "L1"),
        (r"^(sync|quality|quality_loss)$", "Losses"),
    ),
    validation_charts=((r"^l1", "Validation L1"), (r"^nmse", "Validation NMSE")),
    usage="--video someone.mp4 --sound voice.wav --out video.mp4",
)
