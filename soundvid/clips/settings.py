"""What decides about a source's clips, cut from the recipe: how they are rendered, and which there are.

`RenderSettings` decides the bytes of a clip and nothing else does; its key names what was rendered with it.
`PlanSettings` decides which clips a source is cut into. Thresholds are neither: see soundvid.quality.rules.
"""

import hashlib
import os
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from soundvid.clips.denoise.registry import library_version
from soundvid.clips.plan import PlanSettings, TimeSplit, span_windows
from soundvid.errors import RecipeError
from soundvid.models import weights
from soundvid.recipe.model import NoiseFile, Recipe, Sound, Video
from soundvid.sources.model import DiscoveredSource, SidecarAudio
from soundvid.util.config import Strict
from soundvid.util.hashing import content_key

RENDER_VERSION = 5  # raise it when the same source and settings give other bytes
_MOTION = {"motion_share", "motion_in"}  # mean something where the crop is found from motion
_FACE = {"face_choice", "face_lost", "face_margin"}  # where it is found from landmarks


def settings_of_other_crops(video: Video) -> set[str]:
    """Fields of the recipe's section `video` that decide nothing with its crop."""
    unused = set() if video.crop == "motion" else _MOTION
    return unused if video.crop in ("lips", "face") else unused | _FACE


class RenderSettings(Strict):
    """How a source's clips are made."""

    version: int = RENDER_VERSION
    video: Video
    sound: Sound | None  # None: pictures alone
    noise_sha256: str | None = None  # of the recipe's recording of noise
    denoise_library: str | None = None  # name and version of a library that decides the samples, too
    has_sidecar: bool = False  # the sound is in a file of its own
    sidecar_offset: float | None = None  # seconds; None: measured

    @property
    def key(self) -> str:
        """16 hexadecimal digits: the same for the same bytes."""
        sound: dict[str, Any] = self.sound.model_dump(mode="json") if self.sound is not None else {}
        if self.noise_sha256 is not None:  # the recording's content counts, not where it lies
            sound["denoise"]["profile"] = self.noise_sha256
        video = self.video.model_dump(mode="json", exclude=settings_of_other_crops(self.video))
        sidecar = {"offset": self.sidecar_offset} if self.has_sidecar else None
        return content_key([self.version, video, sound, self.denoise_library, sidecar])


@dataclass(frozen=True)
class SourceSettings:
    """What decides about one source. `time_split`: the splits its clips lie in; None: its group or key decides."""

    render: RenderSettings
    plan: PlanSettings
    time_split: TimeSplit | None

    @cached_property
    def render_key(self) -> str:
        return self.render.key

    @cached_property
    def plan_key(self) -> str:
        return self.plan.key


class RecipeSettings:
    """A recipe's settings for any of its sources. Raises RecipeError where its noise recording cannot be read, or
    a library that it needs is not installed, MissingWeights where its crop's networks are not there."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        if recipe.video.crop in ("lips", "face"):
            for name in ("blazeface", "facemesh"):
                weights.find(name)
        denoise = recipe.sound.denoise if recipe.sound is not None else None
        noise = denoise.profile if denoise is not None else None
        self.noise_sha256 = file_sha256(Path(noise.file)) if isinstance(noise, NoiseFile) else None
        self.spans: dict[str, list[tuple[float, float]]] = {}
        for span in recipe.clips.spans:
            self.spans.setdefault(span.source, []).append((span.start, span.stop))
        self._plain = RenderSettings(
            video=recipe.video,
            sound=recipe.sound,
            noise_sha256=self.noise_sha256,
            denoise_library=library_version(denoise) if denoise is not None else None,
        )
        self._time_split = None
        if recipe.splits.by == "time":
            ratios = recipe.splits.ratios
            ordered = tuple((n, ratios[n]) for n in ("train", "val", "test") if n in ratios)
            self._time_split = TimeSplit(
                ratios=ordered, guard_seconds=recipe.splits.guard_seconds, rotate=recipe.splits.rotate
            )
        self._made: dict[tuple[Any, ...], SourceSettings] = {}  # most sources share theirs

    def of(self, source: DiscoveredSource) -> SourceSettings:
        pinned = source.group in self.recipe.splits.pins  # lies in one split, whole
        spans = tuple(self._spans_of(source)) if self.recipe.clips.plan == "spans" else None
        decides = source.sidecar and (source.sidecar.offset, source.sidecar.tolerance), pinned, spans
        if decides not in self._made:
            self._made[decides] = self._make(source.sidecar, pinned, spans)
        return self._made[decides]

    def _make(
        self, sidecar: SidecarAudio | None, pinned: bool, spans: tuple[tuple[float, float], ...] | None
    ) -> SourceSettings:
        render = self._plain
        if sidecar is not None:
            render = render.model_copy(update={"has_sidecar": True, "sidecar_offset": sidecar.offset})
        time_split = None if pinned else self._time_split
        clips, plan = self.recipe.clips, self.recipe.clips.plan
        fields: dict[str, Any] = {
            "plan": plan,
            "seconds": clips.seconds,
            "sidecar_tolerance": sidecar.tolerance if sidecar is not None else None,
        }
        if plan == "random":
            fields |= {"clips_per_second": clips.clips_per_second, "seed": clips.seed}
        elif plan == "consecutive":
            fields |= {
                "hop_seconds": clips.hop_seconds,
                "last_seconds": clips.last_seconds,
                "time_split": time_split,
            }
        else:
            fields["spans"] = spans
        return SourceSettings(render, PlanSettings(**fields), time_split)

    def _spans_of(self, source: DiscoveredSource) -> list[tuple[float, float]]:
        spans = [*self.spans.get(source.name, [])]
        if os.path.basename(source.name) != source.name:
            spans += self.spans.get(os.path.basename(source.name), [])
        return spans + [(start, stop) for start, stop, _ in source.spans]

    def captions(self, source: DiscoveredSource) -> dict[tuple[int, int], str]:
        """Captions of a list's spans by (first frame, frames) of the clips they become."""
        named = {}
        for start, stop, caption in source.spans:
            (window,) = span_windows([(Fraction(str(start)), Fraction(str(stop)))], self.recipe.video.fps)
            if caption:
                named[window.start, window.frames] = caption
        return named


def file_sha256(path: Path) -> str:
    """The content of the recipe's noise recording. Raises RecipeError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"sound.denoise.profile: {path} cannot be read ({error.strerror})") from error
