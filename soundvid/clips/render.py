"""All clips of one source in one decode: the unit of work of a build.

`render` is a function of the source's content and the settings. It measures every planned clip, encodes those that the
thresholds keep, and leaves a part (soundvid.clips.part). What a clip is does not depend on which others are made.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.clips.crop.registry import find as find_area
from soundvid.clips.denoise.base import SampleReader
from soundvid.clips.denoise.registry import open_sound
from soundvid.clips.part import MediaWriter, Part, PartClip
from soundvid.clips.plan import PlanSettings, TimeSplit, gap_windows, plan_windows, split_of_window, split_parts
from soundvid.clips.settings import RenderSettings, file_sha256
from soundvid.errors import RecipeError
from soundvid.media.clip_encoder import ClipEncoder
from soundvid.media.clock import Window, slots_in
from soundvid.media.colour import HDR, PRIMARIES, TRANSFERS
from soundvid.media.encode import encode_flac, to_int16
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing, crop_area
from soundvid.media.interlace import FieldOrder, Vote, clip_order
from soundvid.media.luma import luma_statistics
from soundvid.media.probe import SoundTrack, Source, probe, probe_sound
from soundvid.media.sidecar import align, check_length
from soundvid.media.sound_decoder import full_scale_leaps
from soundvid.media.sound_track import choose_track
from soundvid.media.video_reader import GridFrame, VideoReader
from soundvid.quality.rules import Thresholds, judge
from soundvid.recipe.model import NoiseFile
from soundvid.sources.digests import FileSignature, file_signature
from soundvid.verdict import Verdict

MAX_CLIP_BYTES = 512 << 20  # pictures of one clip in memory
LOOKS_PER_SECOND = 2  # at pictures that may be made of fields


@dataclass(frozen=True)
class RenderTask:
    """One source to render into the part `target`. Nothing is done about windows that are `known` (start, frames)."""

    path: Path
    source_id: str
    signature: FileSignature
    render: RenderSettings
    plan: PlanSettings
    time_split: TimeSplit | None
    thresholds: Thresholds
    target: Path
    known: frozenset[tuple[int, int]] = frozenset()
    sound: Path | None = None  # the file that holds the sound, where it is not the video
    sound_signature: FileSignature | None = None


@dataclass(frozen=True)
class _Shown:
    """A grid frame in memory, with the numbers that judge it."""

    frame: Any
    serial: int
    late: float  # seconds from the picture's time to when it is shown
    damaged: bool
    misframed: bool
    luma: float
    flat: bool
    vote: Vote | None = None  # what it is made of, where it was looked at


def _shown(picture: GridFrame, late: float) -> _Shown:
    mean, flat = luma_statistics(picture.frame)
    return _Shown(picture.frame, picture.serial, late, picture.damaged, picture.misframed, mean, flat)


class _Heartbeat:
    """Reports progress at most twice a second; called for every packet, so that a watcher sees the source is alive."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report, self.share, self.due = report, 0.0, 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self.due:
            self.due = now + 0.5
            self.report(min(1.0, self.share))


class _Renderer:
    """Makes the clips of one source in ascending order, decoding it once.

    `heard` is where its sound is: the source itself, or the file next to it; None: clips have no sound. `facts` is what
    was found out on the way.
    """

    def __init__(
        self, source: Source, heard: Source | SoundTrack | None, task: RenderTask, heartbeat: Callable[[], None]
    ) -> None:
        self.source, self.task = source, task
        self.video, self.sound_settings = task.render.video, task.render.sound
        self.fps, self.rate = self.video.fps, self.sound_settings.rate if self.sound_settings is not None else 0
        self.area = find_area(self.video, source, heartbeat)
        self.facts = dict(self.area.facts)
        self.framing = Framing(self.video.width, self.video.height, self.area.box)
        self.facts["crop"] = list(crop_area(self.framing, source.video.geometry))
        self.heartbeat = heartbeat
        self.pictures = self._reader(source)
        self.every = max(1, floor(self.fps / LOOKS_PER_SECOND))
        # Readers of clips that are made of fields in a source whose first pictures are whole, by the fields' order.
        self.fields: dict[FieldOrder, VideoReader] = {}
        self.encoder = ClipEncoder(
            self.fps, crf=self.video.crf, preset=self.video.preset, keyframe_every=self.video.keyframe_every
        )
        self.sound: SampleReader | None = None
        if heard is not None and self.sound_settings is not None:
            self.sound, noise = open_sound(heard, self.sound_settings, source.duration, heartbeat)
            self.facts |= noise
        self.ring: dict[int, _Shown] = {}
        self.last: tuple[int, _Shown] | None = None

    def close(self) -> None:
        self._close_pictures()
        if self.sound is not None:
            self.sound.close()

    def _close_pictures(self) -> None:
        for reader in (self.pictures, *self.fields.values()):
            reader.close()
        self.fields.clear()

    def _reader(self, source: Source) -> VideoReader:
        return VideoReader(
            source,
            self.fps,
            self.framing,
            self.heartbeat,
            nearest=self.video.timing == "nearest",
            deinterlace=self.video.deinterlace == "auto",
        )

    def aim(self, window: Window) -> None:
        """Frame the pictures as this window's clip shows them. Raises MediaError where it has no area of its own."""
        if self.area.at is None:
            return
        box = self.area.at(float(window.start / self.fps), float(window.stop / self.fps))
        if box != self.framing.box:
            self._close_pictures()
            self.framing = Framing(self.video.width, self.video.height, box)
            self.pictures, self.last = self._reader(self.source), None
            self.ring.clear()
            self.encoder.forget()

    def _show(self, slot: int) -> _Shown:
        picture = self.pictures.at(slot)
        late = float(slot / self.fps - picture.time)
        vote = self.pictures.look() if slot % self.every == 0 else None
        if self.last is not None and self.last[0] == picture.serial:
            before = self.last[1]
            return replace(before, late=late, vote=vote)
        shown = replace(_shown(picture, late), vote=vote)
        self.last = (picture.serial, shown)
        return shown

    def _deinterlaced(self, window: Window, order: FieldOrder) -> list[_Shown]:
        """The pictures of a window that is made of fields. Windows may overlap, and a reader never goes back."""
        reader = self.fields.get(order)
        if reader is None or reader.latest > window.start:
            if reader is not None:
                reader.close()
            video = replace(self.source.video, field_order=order)
            reader = self.fields[order] = self._reader(replace(self.source, video=video))
        found: list[_Shown] = []
        for slot in range(window.start, window.stop):
            picture = reader.at(slot)
            late = float(slot / self.fps - picture.time)
            again = bool(found) and found[-1].serial == picture.serial
            found.append(replace(found[-1], late=late) if again else _shown(picture, late))
        return found

    def _gather(self, window: Window) -> list[_Shown]:
        for slot in [s for s in self.ring if s < window.start]:
            del self.ring[slot]
        self.encoder.forget(window.start)
        for slot in range(window.start, window.stop):
            if slot not in self.ring:
                self.ring[slot] = self._show(slot)
        return [self.ring[s] for s in range(window.start, window.stop)]

    def make(self, window: Window, writer: MediaWriter) -> PartClip:
        """Measure one window and, where the thresholds keep it, encode it into `writer`."""
        shown = self._gather(window)
        order = clip_order(s.vote for s in shown)
        if order != "progressive":
            shown = self._deinterlaced(window, order)
        sound, heard = self._hear(window)
        serials = [s.serial for s in shown]
        pairs = list(zip(serials, serials[1:], strict=False))
        measures: dict[str, Any] = {
            "timing_error_seconds": max(abs(s.late) for s in shown),
            "damaged_frames": sum(s.damaged for s in shown),
            "misframed_frames": sum(s.misframed for s in shown),
            "flat_frames": sum(s.flat for s in shown),
            **heard,
            "duplicated_frames": sum(a == b for a, b in pairs),
            "dropped_frames": sum(max(0, b - a - 1) for a, b in pairs),
            "luma": round(sum(s.luma for s in shown) / len(shown), 2),
        }
        clip = PartClip(window.start, window.frames, measures=measures)
        if int(judge({**measures, "frames": window.frames}, self.task.thresholds)) >= 0:
            return clip
        mp4 = self.encoder.encode(window.start, [s.frame for s in shown])
        if order != "progressive":
            self.encoder.forget()  # the next clip gets these pictures from a reader of its own
        media = writer.add(mp4, encode_flac(sound, self.rate) if sound is not None else b"")
        return PartClip(window.start, window.frames, measures=measures, media=media)

    def _hear(self, window: Window) -> tuple[np.ndarray | None, dict[str, Any]]:
        """The sound of a window (int16) and what is measured of it; None and nothing where clips have none."""
        if self.sound is None:
            return None, {}
        stretch = self.sound.read(*window.samples(self.rate, self.fps))
        sound = to_int16(stretch.samples)
        return sound, {
            "missing_samples": stretch.missing,
            "peak": int(np.abs(sound.astype(np.int32)).max(initial=0)),
            "mix_loss_db": stretch.mix_loss,
            "sound_steps": stretch.steps,
            "damaged_samples": stretch.damaged,
            "sound_leaps": full_scale_leaps(stretch.samples, self.rate),
        }


def _media_facts(source: Source, fps: Fraction) -> dict[str, Any]:
    video = source.video
    return {
        "container": source.container,
        "duration_seconds": float(source.duration),
        "grid_frames": slots_in(source.duration, fps),
        "video_codec": video.codec,
        "width": video.width,
        "height": video.height,
        "pixel_aspect": str(video.pixel_aspect),
        "rotation": video.rotation,
        "pixel_format": video.pixel_format,
        "transfer": TRANSFERS.get(video.transfer, ""),
        "primaries": PRIMARIES.get(video.primaries, ""),
        "source_frames": video.frames,
        "variable_rate": video.variable,
        "interlaced": video.interlaced,
        "field_order": video.field_order,
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


def _find_sound(
    source: Source, task: RenderTask, facts: dict[str, Any], heartbeat: Callable[[], None]
) -> Source | SoundTrack | None:
    """Where the source's sound is: in itself, or in the file next to it, on the pictures' clock; None: not wanted."""
    if task.render.sound is None:
        return None
    if task.sound is None:
        source, track = choose_track(source, task.render.sound.track, heartbeat)
        facts |= {**_sound_facts(source), **track}
        return source
    try:
        alone = probe_sound(task.sound, heartbeat)
    except MediaError as error:
        raise MediaError(error.code, f"the sound file {task.sound.name}: {error.message}") from error
    heard, offset = align(source, alone, task.render.sidecar_offset, heartbeat)
    facts |= _sound_facts(heard)
    facts |= {"sound_offset_seconds": float(offset.seconds), "sound_likeness": offset.likeness}
    check_length(source, alone, offset, task.plan.sidecar_tolerance)
    return heard


def refusal(window: Window, task: RenderTask, slots: int, seconds: float) -> tuple[str, str] | None:
    """Why the plan leaves a window out: (code, one line); None: it is a clip."""
    video = task.render.video
    if window.stop > slots:
        return "outside", f"reaches beyond the end of the video ({seconds:.2f} s)"
    size = window.frames * video.width * video.height * 3 // 2
    if size > MAX_CLIP_BYTES:
        limit = MAX_CLIP_BYTES >> 20
        return "too_long", f"needs {size >> 20} MB for its pictures, {limit} are allowed"
    return None


def _clips(
    task: RenderTask, done: dict[Window, PartClip], facts: dict[str, Any], writer: MediaWriter, report: Any
) -> list[PartClip]:
    """Every planned clip, those that are `done` as they are. Raises MediaError for the source as a whole."""
    heartbeat = _Heartbeat(report)
    fps = task.render.video.fps
    source = probe(task.path, heartbeat)
    facts |= _media_facts(source, fps)
    if task.render.video.hdr == "refuse" and source.video.transfer in HDR:
        raise MediaError("hdr", f"is HDR ({TRANSFERS[source.video.transfer]}); video.hdr: tone_map converts it")
    heard = _find_sound(source, task, facts, heartbeat)
    if heard is not None and heard.sound is None:
        why = "has no sound track"
        if source.sound_streams:
            why = "its sound track is empty, or its codec is unknown to this FFmpeg"
        raise MediaError("no_sound", why)
    windows = plan_windows(source, task.source_id, fps, task.plan)
    slots = slots_in(source.duration, fps)
    parts = split_parts(slots, fps, task.time_split)
    renderer = _Renderer(source, heard, task, heartbeat)
    facts |= renderer.facts
    clips = []
    try:
        for window in windows:
            refused = refusal(window, task, slots, float(source.duration))
            if refused is not None:
                clips.append(PartClip(window.start, window.frames, *refused))
            elif window in done:
                clips.append(done[window])
            elif (window.start, window.frames) in task.known or (parts and split_of_window(window, parts) is None):
                clips.append(PartClip(window.start, window.frames))
            else:
                try:
                    renderer.aim(window)
                except MediaError as error:
                    clips.append(PartClip(window.start, window.frames, error.code, error.message))
                else:
                    clips.append(renderer.make(window, writer))
            heartbeat.share = window.stop / max(1, slots)
    finally:
        renderer.close()
    if task.plan.plan != "spans":
        clips += [PartClip(w.start, w.frames, "no_pictures", _gap_message(w, fps)) for w in gap_windows(source, fps)]
        clips.sort(key=lambda clip: clip.window)
    return clips


def _gap_message(window: Window, fps: Fraction) -> str:
    start, stop = window.seconds(fps)
    return f"no pictures follow each other from {float(start):.2f} to {float(stop):.2f} s: nothing is cut there"


def render(task: RenderTask, report: Callable[[float], None]) -> Part:
    """Make the part of one source, or add to it what it lacks. `report` gets how far it is (0 to 1).

    Raises StoreError where the store cannot be written, MediaError (`vanished`, `changed`) where the file went away or
    changed on the way; whatever else is wrong with the source stands in the part.
    """
    before = Part.read(task.target)
    done = {c.window: c for c in before.clips if c.measures is not None and _is_done(c, task)} if before else {}
    verdict: Verdict | None = None
    facts: dict[str, Any] = {}
    clips: list[PartClip] = []
    writer = MediaWriter(task.target)
    try:
        try:
            clips = _clips(task, done, facts, writer, report)
        except MediaError as error:
            if error.code in ("vanished", "unreadable", "not_held"):
                raise
            verdict = Verdict("rejected", "render", error.code, error.message)
        _check_unchanged(task)
        if writer.size:
            name = writer.finish()
            clips = [
                PartClip(c.start_frame, c.frames, measures=c.measures, media={"file": name, **c.media})
                if c.media is not None and "file" not in c.media
                else c
                for c in clips
            ]
        part = Part(task.source_id, task.plan.key, verdict, facts, tuple(clips))
        part.write(task.target)
        return part
    finally:
        writer.discard()


def _is_done(clip: PartClip, task: RenderTask) -> bool:
    """Whether there is nothing to do about a measured clip: it is rendered, or the thresholds refuse it."""
    assert clip.measures is not None
    return clip.media is not None or int(judge({**clip.measures, "frames": clip.frames}, task.thresholds)) >= 0


def is_complete(part: Part | None, task: RenderTask) -> bool:
    """Whether rendering the task would add nothing to the part."""
    if part is None or part.plan_key != task.plan.key:
        return False
    if part.verdict is not None:
        return True
    parts = split_parts(part.facts["grid_frames"], task.render.video.fps, task.time_split)
    return all(
        c.code
        or (c.start_frame, c.frames) in task.known
        or (c.measures is not None and _is_done(c, task))
        or (parts and split_of_window(c.window, parts) is None)
        for c in part.clips
    )


def _check_unchanged(task: RenderTask) -> None:
    for path, before in ((task.path, task.signature), (task.sound, task.sound_signature)):
        if path is None:
            continue
        try:
            now = file_signature(path)
        except OSError as error:
            raise MediaError("vanished", "the file went away while it was read") from error
        if before is None or tuple(now) != tuple(before):
            raise MediaError("changed", "the file changed while it was read: it is taken again in the next build")
    denoise = task.render.sound.denoise if task.render.sound is not None else None
    if denoise is not None and isinstance(denoise.profile, NoiseFile):
        try:
            same = file_sha256(Path(denoise.profile.file)) == task.render.noise_sha256
        except RecipeError as error:
            raise MediaError("vanished", str(error)) from error
        if not same:
            raise MediaError("changed", "the noise recording changed since the build began: run the command again")
