"""All clips of one source in one decode: the unit of work of a build.

`render` is a pure function of the source's content and the settings; it leaves a part: `samples.tar` with
the finished samples and `part.json` with what became of every planned clip. A part appears by one rename,
so it is there whole or not at all.
"""

import base64
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.clips.crop.motion import find_motion
from soundvid.clips.denoise import Denoised, Gate, noise_of, opener
from soundvid.clips.plan import Planned, consecutive_windows, random_windows, span_windows, split_by_time, time_parts
from soundvid.errors import RecipeError, StoreError
from soundvid.features.spectrogram import SPECTROGRAM_VERSION, Spectrogram
from soundvid.media.clock import Window, half_up, slots_in
from soundvid.media.encode import encode_clip, encode_flac, to_int16
from soundvid.media.errors import MediaError
from soundvid.media.luma import luma_statistics
from soundvid.media.probe import SoundTrack, Source, probe, probe_sound
from soundvid.media.sidecar import align, check_length
from soundvid.media.sound_reader import SoundReader
from soundvid.media.video_reader import Framing, VideoReader, crop_area
from soundvid.recipe.model import Denoise, NoiseFile, Recipe
from soundvid.store.tar import Sample, canonical_json, pack_sample

RENDER_VERSION = 2  # raise it when the same source and recipe give other bytes
MOTION = {"motion_share", "motion_in"}  # mean something where the crop is found from motion
MAX_CLIP_BYTES = 512 << 20  # pictures of one clip in memory


# What the operating system says when the store, not the source, is in trouble.
_STORE_ERRNO = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would grow past the size that is allowed",
    errno.EROFS: "it is mounted read-only",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


def store_error(error: OSError, path: Path) -> StoreError:
    """What an operating system error while writing below `path` means for the user."""
    what = _STORE_ERRNO.get(error.errno or 0) or f"it cannot be written ({error.strerror or error})"
    return StoreError(
        f"{path}: {what}; mend that and give the same command again: finished sources are kept, nothing is lost"
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what a source becomes, without the spans that are its own."""
    settings: dict[str, Any] = {
        "version": RENDER_VERSION,
        "clips": recipe.clips.model_dump(mode="json", exclude={"spans"}),
        "video": recipe.video.model_dump(mode="json", exclude=MOTION if recipe.video.crop != "motion" else None),
        "sound": recipe.sound.model_dump(mode="json"),
        "features": recipe.features.model_dump(mode="json"),
    }
    denoise = recipe.sound.denoise
    if denoise is not None and isinstance(denoise.profile, NoiseFile):
        settings["noise_sha256"] = sha256_of(Path(denoise.profile.file))
    if SPECTROGRAM_VERSION > 1:
        settings["spectrogram_version"] = SPECTROGRAM_VERSION
    if recipe.splits.by == "time":
        rule = recipe.splits
        ratios = [[name, rule.ratios[name]] for name in ("train", "val", "test") if name in rule.ratios]
        settings["time_split"] = {"ratios": ratios, "guard_seconds": rule.guard_seconds}
    return settings


def sha256_of(noise: Path) -> str:
    """The content of the recipe's noise recording. Raises RecipeError where it cannot be read."""
    try:
        with noise.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"sound.denoise.profile: {noise} cannot be read ({error.strerror})") from error


def without_features(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide about pictures and sound alone."""
    kept = {k: v for k, v in settings.items() if k != "spectrogram_version"}
    return {**kept, "features": dict.fromkeys(settings["features"])}


def spectrogram_of(settings: dict[str, Any]) -> Spectrogram | None:
    """The spectrogram that settings ask for."""
    option = settings["features"]["spectrogram"]
    if not option:
        return None
    return Spectrogram(settings["sound"]["rate"], Fraction(settings["video"]["fps"]), option["window"], option["dtype"])


def with_spans(settings: dict[str, Any], spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The settings of one source: those of the recipe and its own spans (start, stop in seconds)."""
    return {**settings, "clips": {**settings["clips"], "spans": [[a, b] for a, b in spans]}}


def settings_key(settings: dict[str, Any], subject: str) -> str:
    """The name of what these settings make of a source."""
    if "noise_sha256" in settings:  # the recording's content counts, not where it lies
        sound = {**settings["sound"], "denoise": {**settings["sound"]["denoise"], "profile": "file"}}
        settings = {**settings, "sound": sound}
    return hashlib.sha256(canonical_json([settings, subject])).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """One source to render."""

    path: Path
    source_id: str
    sha256: str
    stamp: tuple[int, int, int, int]
    subject: str
    settings: dict[str, Any]
    target: Path  # the part's folder
    sound: Path | None = None  # the file that holds the sound, where it is not the video
    sound_stamp: tuple[int, int, int, int] | None = None

    @property
    def paths(self) -> dict[str, Path | None]:
        return {"path": self.path, "target": self.target, "sound": self.sound}


@dataclass
class ClipRow:
    """What became of a planned clip. `sample` is set when it was kept."""

    key: str
    start_frame: int
    frames: int
    outcome: str  # kept | rejected
    code: str = ""
    message: str = ""
    split: str | None = None
    record: dict[str, Any] = field(default_factory=dict)
    sample: Sample | None = None


@dataclass
class Part:
    """What became of a source: kept when it has at least one clip."""

    source_id: str
    outcome: str
    code: str = ""
    message: str = ""
    media: dict[str, Any] = field(default_factory=dict)
    clips: list[ClipRow] = field(default_factory=list)
    size: int = 0  # of samples.tar

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Part":
        """Load a part; raises ValueError or OSError where it is not whole."""
        from soundvid.store.tar import Member

        data = json.loads((folder / "part.json").read_bytes())
        clips = []
        for row in data.pop("clips"):
            sample = row.pop("sample")
            if sample is not None:
                sample["members"] = {k: Member(**m) for k, m in sample["members"].items()}
                sample = Sample(**sample)
            clips.append(ClipRow(**row, sample=sample))
        part = cls(**data, clips=clips)
        if part.size and (folder / "samples.tar").stat().st_size != part.size:
            raise ValueError(f"{folder}: samples.tar has not the size it was written with")
        return part


def plan(source: Source, source_id: str, settings: dict[str, Any]) -> list[Planned]:
    """The windows of a source. Raises MediaError (`too_short`, `no_span`) where there is none."""
    clips, fps = settings["clips"], Fraction(settings["video"]["fps"])
    slots = slots_in(source.duration, fps)
    frames = half_up(Fraction(str(clips["seconds"])) * fps)
    parts: list[tuple[str, int, int]] = []
    if "time_split" in settings:
        rule = settings["time_split"]
        parts = time_parts(slots, dict(rule["ratios"]), half_up(Fraction(str(rule["guard_seconds"])) * fps))
    if clips["plan"] == "spans":
        spans = [(Fraction(str(a)), Fraction(str(b))) for a, b in clips["spans"]]
        if not spans:
            raise MediaError("no_span", "the recipe's list of spans does not name this file")
        windows = [w for w in span_windows(spans, fps) if w.frames > 0]
        if not windows:
            raise MediaError("no_span", "the spans that name this file hold less than a frame")
    else:
        least = clips["last_seconds"]
        shortest = max(1, half_up(Fraction(str(least)) * fps)) if least else frames
        if slots < shortest:
            raise MediaError(
                "too_short", f"lasts {float(source.duration):.2f} s; a clip of {clips['seconds']:g} s does not fit"
            )
        if clips["plan"] == "random":
            count = max(1, half_up(source.duration * Fraction(str(clips["clips_per_second"]))))
            windows = random_windows(source_id, slots, frames, count, clips["seed"])
        else:
            hop = half_up(Fraction(str(clips["hop_seconds"] or clips["seconds"])) * fps)
            # Each part of time is cut for itself, so that nothing of it lies across a border for no reason.
            windows = [
                window
                for _, first, stop in parts or [("", 0, slots)]
                for window in consecutive_windows(stop, frames, max(1, hop), shortest if least else None, first)
            ]
    if not windows:
        raise MediaError("too_short", f"lasts {float(source.duration):.2f} s; no split's part of it holds a clip")
    outside = {w for w in windows if w.stop > slots}
    planned = split_by_time(windows, parts) if parts else [Planned(w) for w in windows]
    return [
        Planned(p.window, None, ("outside", f"reaches beyond the end of the video ({float(source.duration):.2f} s)"))
        if p.window in outside
        else p
        for p in planned
    ]


@dataclass(frozen=True)
class _Shown:
    """A grid frame in memory, with the numbers that judge it."""

    frame: Any
    serial: int
    late: Fraction
    damaged: bool
    luma: float
    flat: bool


class _Pulse:
    """Signs of life on the way: called for every packet, heard twice a second."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report, self.share, self.due = report, 0.0, 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self.due:
            self.due = now + 0.5
            self.report(min(1.0, self.share))


class _Renderer:
    """Makes the clips of one source in ascending order, decoding it once.

    `heard` is where its sound is: the source itself, or the file beside it. `facts` is what was found out on the way.
    """

    def __init__(self, source: Source, heard: Source | SoundTrack, task: Task, alive: Callable[[], None]) -> None:
        self.source, self.task = source, task
        self.facts: dict[str, Any] = {}
        settings = task.settings
        self.rules, video = settings["clips"], settings["video"]
        self.video = video
        self.fps = Fraction(video["fps"])
        self.rate: int = settings["sound"]["rate"]
        self.framing = Framing(video["width"], video["height"], self._box(alive))
        info = source.video
        self.crop = crop_area(self.framing, info.width, info.height, info.pixel_aspect, info.orientation)
        self.pictures = VideoReader(source, self.fps, self.framing, alive, nearest=video["timing"] == "nearest")
        self.sound = self._sound(heard, alive)
        self.spectrogram = spectrogram_of(settings)
        self.ring: dict[int, _Shown] = {}
        self.last: tuple[int, _Shown] | None = None

    def close(self) -> None:
        self.pictures.close()
        self.sound.close()

    def _box(self, alive: Callable[[], None]) -> tuple[int, int, int, int] | None:
        """The recipe's crop box, in pixels as displayed, or the one that motion finds; None: the centre."""
        video, crop = self.video, self.video["crop"]
        if crop != "motion":
            return None if crop == "centre" else tuple(crop)
        shape, lower = (video["width"], video["height"]), video["motion_in"] == "lower_half"
        motion = find_motion(self.source, shape, video["motion_share"], alive, lower=lower)
        self.facts |= {"crop_box": list(motion.box), "motion_map": base64.b64encode(motion.jpeg()).decode()}
        return motion.box

    def _sound(self, heard: Source | SoundTrack, alive: Callable[[], None]) -> SoundReader | Denoised:
        """The source's sound, behind the gate where the recipe has one."""
        sound = self.task.settings["sound"]
        channel = None if sound["channel"] == "mix" else sound["channel"] - 1
        make = opener(heard, self.rate, channel, alive)
        if sound["denoise"] is None:
            return make()
        options = Denoise.model_validate(sound["denoise"])
        noise = noise_of(make, self.source.duration, options)
        self.facts["noise_profile"] = "follows the sound" if noise is None else "file"
        if noise is not None:
            self.facts |= {"noise_dbfs": round(noise.dbfs, 2)}
            if noise.start is not None and noise.stop is not None:
                self.facts["noise_profile"] = f"{noise.start:g} to {noise.stop:g} s"
        gate = Gate(self.rate, options, None if noise is None else noise.samples)
        return Denoised(make, gate, self.source.duration)

    def _show(self, slot: int) -> _Shown:
        picture = self.pictures.at(slot)
        late = slot / self.fps - picture.time
        if self.last is not None and self.last[0] == picture.serial:
            before = self.last[1]
            return _Shown(before.frame, before.serial, late, before.damaged, before.luma, before.flat)
        mean, flat = luma_statistics(picture.frame)
        shown = _Shown(picture.frame, picture.serial, late, picture.damaged, mean, flat)
        self.last = (picture.serial, shown)
        return shown

    def _gather(self, window: Window) -> list[_Shown]:
        for slot in [s for s in self.ring if s < window.start]:
            del self.ring[slot]
        for slot in range(window.start, window.stop):
            if slot not in self.ring:
                self.ring[slot] = self._show(slot)
        return [self.ring[s] for s in range(window.start, window.stop)]

    def _judge(self, shown: list[_Shown], peak: int, missing: int, steps: int) -> tuple[str, str] | None:
        """Why a clip is refused: (code, one line), or None."""
        rules = self.rules
        worst = max(abs(s.late) for s in shown)
        if worst > Fraction(str(rules["max_timing_error"])):
            return "timing", (
                f"a picture is {float(worst):.3f} s away from its time (frozen, lost or irregular pictures); "
                f"allowed are {rules['max_timing_error']:g} s"
            )
        if not rules["keep_damaged"] and any(s.damaged for s in shown):
            return "damaged_picture", "pictures are damaged: FFmpeg could decode them only in part"
        if not rules["keep_blank"] and all(s.flat for s in shown):
            return "blank", f"every picture is one flat colour (luma {shown[0].luma:.0f})"
        lacking = Fraction(missing, self.rate)
        if lacking > Fraction(str(rules["max_missing_sound"])):
            return "missing_sound", (
                f"the sound track has nothing for {float(lacking):.3f} s of it; allowed are "
                f"{rules['max_missing_sound']:g} s"
            )
        if rules["silence_dbfs"] is not None and _dbfs(peak) < rules["silence_dbfs"]:
            return "silent", f"the sound never rises above {rules['silence_dbfs']:g} dBFS (peak {_dbfs(peak):.0f})"
        return None

    def make(self, key: str, planned: Planned, offset: int) -> tuple[bytes, ClipRow]:
        """Render one window: the sample's blocks (empty where it is refused) and its row."""
        window = planned.window
        row = ClipRow(key, window.start, window.frames, "rejected", split=planned.split)
        size = window.frames * self.framing.width * self.framing.height * 3 // 2
        if planned.rejected is None and size > MAX_CLIP_BYTES:
            limit = MAX_CLIP_BYTES >> 20
            planned = Planned(
                window, None, ("too_long", f"needs {size >> 20} MB for its pictures, {limit} are allowed")
            )
        if planned.rejected is not None:
            row.code, row.message = planned.rejected
            return b"", row
        shown = self._gather(window)
        first, last = window.samples(self.rate, self.fps)
        stretch = self.sound.read(first, last)
        sound = to_int16(stretch.samples)
        peak = int(np.abs(sound.astype(np.int32)).max(initial=0))
        serials = [s.serial for s in shown]
        pairs = list(zip(serials, serials[1:], strict=False))
        row.record = {
            "key": key,
            "source_id": self.task.source_id,
            "source_sha256": self.task.sha256,
            "subject": self.task.subject,
            "start_frame": window.start,
            "frames": window.frames,
            "fps": str(self.fps),
            "width": self.framing.width,
            "height": self.framing.height,
            "start_seconds": float(window.start / self.fps),
            "seconds": float(window.frames / self.fps),
            "first_sample": first,
            "samples": last - first,
            "sample_rate": self.rate,
            "missing_samples": stretch.missing,
            "sound_steps": stretch.steps,
            "duplicated_frames": sum(a == b for a, b in pairs),
            "dropped_frames": sum(max(0, b - a - 1) for a, b in pairs),
            "timing_error_seconds": float(max(abs(s.late) for s in shown)),
            "damaged_frames": sum(s.damaged for s in shown),
            "luma": round(sum(s.luma for s in shown) / len(shown), 2),
            "peak_dbfs": round(_dbfs(peak), 2),
            "crop": list(self.crop),
        }
        refused = self._judge(shown, peak, stretch.missing, stretch.steps)
        if refused is not None:
            row.code, row.message = refused
            return b"", row
        members = {
            "mp4": encode_clip(
                [s.frame for s in shown],
                self.fps,
                crf=self.video["crf"],
                preset=self.video["preset"],
                keyframe_every=self.video["keyframe_every"],
            ),
            "flac": encode_flac(sound, self.rate),
        }
        if self.spectrogram is not None:
            members["spectrogram.npy"] = self.spectrogram.member(sound, window.start, window.frames)
            row.record["spectrogram"] = self.spectrogram.facts()
        members["json"] = canonical_json(row.record)
        blocks, row.sample = pack_sample(key, members, offset)
        row.outcome = "kept"
        return blocks, row


def _dbfs(peak: int) -> float:
    return 20 * math.log10(max(peak, 1) / 32768)


def _media_facts(source: Source) -> dict[str, Any]:
    video = source.video
    return {
        "container": source.container,
        "duration_seconds": float(source.duration),
        "video_codec": video.codec,
        "width": video.width,
        "height": video.height,
        "pixel_aspect": str(video.pixel_aspect),
        "rotation": video.rotation,
        "pixel_format": video.pixel_format,
        "source_frames": video.frames,
        "variable_rate": video.variable,
        "interlaced": video.interlaced,
        "video_streams": video.streams,
        **_sound_facts(source),
    }


def _sound_facts(source: Source | SoundTrack) -> dict[str, Any]:
    sound = source.sound
    return {
        "sound_codec": sound.codec if sound else "",
        "sound_rate": sound.rate if sound else 0,
        "channels": sound.channels if sound else 0,
        "sound_streams": sound.streams if sound else 0,
    }


def _heard(source: Source, task: Task, part: Part, alive: Callable[[], None]) -> Source | SoundTrack:
    """Where the source's sound is: in itself, or in the file beside it, on the pictures' clock."""
    if task.sound is None:
        return source
    rule = task.settings["pair"]
    try:
        alone = probe_sound(task.sound, alive)
    except MediaError as error:
        raise MediaError(error.code, f"the sound file {task.sound.name}: {error.message}") from error
    heard, offset = align(source, alone, rule["offset"], alive)
    part.media |= _sound_facts(heard)
    part.media |= {"sound_offset_seconds": float(offset.seconds), "sound_likeness": offset.likeness}
    check_length(source, alone, offset, rule["tolerance"])
    return heard


def _fill(part: Part, task: Task, tar: Any, report: Callable[[float], None]) -> None:
    """Render everything into `tar`, noting it in `part`. Raises MediaError for the source as a whole."""
    pulse = _Pulse(report)
    source = probe(task.path, pulse)
    part.media = _media_facts(source)
    heard = _heard(source, task, part, pulse)
    if heard.sound is None:
        why = "its sound track has a codec unknown to this FFmpeg" if source.sound_streams else "has no sound track"
        raise MediaError("no_sound", why)
    planned = plan(source, task.source_id, task.settings)
    slots = max(1, slots_in(source.duration, Fraction(task.settings["video"]["fps"])))
    renderer = _Renderer(source, heard, task, pulse)
    part.media |= renderer.facts
    try:
        for number in planned:
            window = number.window
            suffix = f"-{window.frames}" if task.settings["clips"]["plan"] == "spans" else ""
            key = f"{task.source_id}-{window.start:08d}{suffix}"
            blocks, row = renderer.make(key, number, part.size)
            pulse.share = window.stop / slots
            with storing(task.target.parent):
                tar.write(blocks)
            part.size += len(blocks)
            part.clips.append(row)
    finally:
        renderer.close()
    kept = sum(c.outcome == "kept" for c in part.clips)
    if kept:
        part.outcome = "kept"
        part.message = f"{kept} of {len(part.clips)} planned clips kept"
    else:
        reasons: dict[str, int] = {}
        for clip in part.clips:
            reasons[clip.code] = reasons.get(clip.code, 0) + 1
        listed = ", ".join(f"{n} x {code}" for code, n in sorted(reasons.items()))
        example = f": {part.clips[0].message}" if part.clips else ""
        part.outcome, part.code = "rejected", "no_clip_left"
        part.message = f"none of {len(part.clips)} planned clips is left ({listed}){example}"


def render(task: Task, report: Callable[[float], None]) -> None:
    """Make the part of one source. `report` hears how far it is (0 to 1).

    Raises StoreError where the store cannot be written, MediaError (`vanished`, `changed`) where the
    file went away or changed on the way; whatever else is wrong with the source stands in the part.
    """
    temporary = task.target.with_name(f".{task.target.name}.{os.getpid()}")
    part = Part(task.source_id, "rejected")
    try:
        with storing(task.target.parent):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            tar = (temporary / "samples.tar").open("wb")
        try:
            _fill(part, task, tar, report)
        except MediaError as error:
            if error.code in ("vanished", "unreadable", "not_held"):
                raise
            part.outcome, part.code, part.message = "rejected", error.code, error.message
            part.clips, part.size = [], 0
        finally:
            with storing(task.target.parent):
                tar.close()
        _check_unchanged(task)
        with storing(task.target.parent):
            os.truncate(temporary / "samples.tar", part.size)
            (temporary / "part.json").write_bytes(part.to_json())
            shutil.rmtree(task.target, ignore_errors=True)
            os.replace(temporary, task.target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, an operating system error is the store's."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def _check_unchanged(task: Task) -> None:
    for path, stamp in ((task.path, task.stamp), (task.sound, task.sound_stamp)):
        if path is None:
            continue
        try:
            info = path.stat()
        except OSError as error:
            raise MediaError("vanished", "the file went away while it was read") from error
        if (info.st_size, info.st_mtime_ns, info.st_dev, info.st_ino) != stamp:
            raise MediaError("changed", "the file changed while it was read: it is taken again in the next build")
    settings = task.settings
    if "noise_sha256" in settings:
        try:
            same = sha256_of(Path(settings["sound"]["denoise"]["profile"]["file"])) == settings["noise_sha256"]
        except RecipeError as error:
            raise MediaError("vanished", str(error)) from error
        if not same:
            raise MediaError("changed", "the noise recording changed since the build began: give the command again")
