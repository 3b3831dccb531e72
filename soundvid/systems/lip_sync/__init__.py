"""System 4: speech to the moving mouth or vocal tract (wav2lip's form, and a cheaper one for little data)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundvid.store.load import Clips
from soundvid.systems.lip_sync.config import EXPERT_PRESETS, PRESETS, ExpertConfig, LipSyncConfig
from soundvid.systems.lip_sync.data import ExpertExamples, PaperExamples, StretchExamples
from soundvid.systems.lip_sync.expert import ExpertSystem, filled, make_expert
from soundvid.systems.lip_sync.system import LipSyncSystem, find_expert, make_generator
from soundvid.training.run import OpenRun
from soundvid.training.stage import Definition, Examples, Purpose, Stage

if TYPE_CHECKING:
    from soundvid.metrics.table import Evaluation


def _examples(config: LipSyncConfig, clips: Clips, purpose: Purpose) -> Examples:
    return (StretchExamples if config.form == "basis" else PaperExamples)(config, clips, purpose)


def _make_expert(config: Any, facts: dict[str, Any], run: Path | None) -> ExpertSystem:
    return ExpertSystem(config, facts)


def _make_generator(config: LipSyncConfig, facts: dict[str, Any], run: Path | None) -> LipSyncSystem:
    return LipSyncSystem(config, facts, find_expert(config, run))


def _check(config: ExpertConfig | LipSyncConfig) -> None:
    """Weights to begin from have to fit; the generator's, too, before the expert's hours."""
    if config.init:
        network = make_expert(config) if isinstance(config, ExpertConfig) else make_generator(config)
        filled(network, config.form, config.init)


definition = Definition(
    name="lip_sync",
    summary="speech -> real-time MRI of the vocal tract, or lips: a sync expert, then a generator",
    stages=(
        Stage("expert", EXPERT_PRESETS, ExpertExamples, _make_expert, _check),
        Stage("generator", PRESETS, _examples, _make_generator, _check),
    ),
)


def evaluate(run: OpenRun, split: str, *, clips: int | None, device: str, progress: Any, **_: Any) -> "Evaluation":
    """What `soundvid evaluate` measures of a run: Table 2 by condition, and the sync expert."""
    from soundvid.systems.lip_sync import evaluate  # metrics stand on the systems

    return evaluate.evaluate(run, split, clips=clips, device=device, progress=progress)
