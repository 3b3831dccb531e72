"""The face of who speaks, or the lips alone: `crop: face` and `crop: lips`, found by landmarks.

Five pictures a second are looked at. The box has one size for a source, from the median height of the face, and one
place for a clip: the median of where the lips (or the face) were in it, rounded to a sixteenth of the box. So it stands
still within a clip, does not follow the jitter of the landmarks from clip to clip, and a clip's box does not depend on
which other clips there are. A head that moves within a clip moves within its box; `face_margin` makes room for it.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from soundvid.clips.crop.base import Box, Crop, CropResult
from soundvid.clips.plan import usable_slots
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.geometry import SMALLEST_CROP, Framing
from soundvid.media.probe import Source
from soundvid.media.video_reader import VideoReader
from soundvid.models.faces import Face, FaceFinder
from soundvid.recipe.model import Video

LOOKS = Fraction(5)  # pictures a second that are looked at
FEWEST = 3  # looks that place the box of a clip: a shorter one counts those next to it, too
STEPS = 16  # to which the place of a box is rounded, in its own width and height
LONGEST = 960  # pixels of the longer side at which they are looked at
NEAR = 1.0  # of its height that a face may have moved since it was seen last
SPEAKS = 0.012  # of the face's height: deviation over time of the lips' distance, above which somebody speaks
# The side of the box, as a share of the face from forehead to chin.
SIDES: dict[str, float] = {"lips": 0.55, "face": 1.35}


@dataclass
class Track:
    """One face through the pictures: where it was seen (numbers of pictures, ascending) and as what."""

    numbers: list[int]
    faces: list[Face]

    @property
    def height(self) -> float:
        """The median from forehead to chin, in pixels."""
        return float(np.median([face.height for face in self.faces]))

    @property
    def movement(self) -> float:
        """The deviation over time of the lips' distance, as a share of the face's height."""
        return float(np.std([face.opening for face in self.faces]))


class _FaceCrop(Crop):
    """A box about a face, or a part of it."""

    needs_scan = True
    part: ClassVar[Literal["lips", "face"]]

    def find(self, source: Source, video: Video, heartbeat: Callable[[], None]) -> CropResult:
        tracks, times, scale = look(source, heartbeat)
        track = choose(tracks, video.face_choice)
        lost = 1 - (len(track.numbers) / len(times) if track else 0)
        if track is None or lost > video.face_lost:
            raise _lost(lost, video, "its")
        size = size_of(track, self.part, video, source.displayed, scale)

        def box(numbers: list[int]) -> Box:
            chosen = [track.faces[k] for k in numbers]
            middles = np.array([face.lips if self.part == "lips" else face.centre for face in chosen]) / scale
            return place(np.median(middles, axis=0), size, source.displayed)

        def at(start: float, stop: float) -> Box:
            inside = [k for k, t in enumerate(times) if start <= t < stop]
            seen = [k for k, number in enumerate(track.numbers) if start <= times[number] < stop]
            if inside and 1 - len(seen) / len(inside) > video.face_lost:
                raise _lost(1 - len(seen) / len(inside), video, "the clip's")
            middle = (start + stop) / 2
            nearest = sorted(range(len(track.numbers)), key=lambda k: abs(times[track.numbers[k]] - middle))
            return box(seen if len(seen) >= FEWEST else sorted(nearest[:FEWEST]))

        whole = box(list(range(len(track.faces))))
        return CropResult(whole, {"crop_box": list(whole)}, at)


def _lost(share: float, video: Video, whose: str) -> MediaError:
    return MediaError(
        "face_lost",
        f"no face is seen in {share:.0%} of {whose} pictures, {video.face_lost:.0%} are allowed (video.face_lost); "
        "a fixed box in video.crop uses it all the same",
    )


class LipsCrop(_FaceCrop):
    """The lips: a box about the middle of the lips, 0.55 of the face's height a side."""

    name = "lips"
    part = "lips"


class FaceCrop(_FaceCrop):
    """The whole face: a box about the middle of its oval, 1.35 of its height a side."""

    name = "face"
    part = "face"


def look(
    source: Source, heartbeat: Callable[[], None] = no_heartbeat, rate: Fraction = LOOKS
) -> tuple[list[Track], list[float], float]:
    """The faces of a source, the times of the pictures that were looked at, and how much smaller these were made.

    Landmarks are in pixels of the picture as displayed times that scale.
    """
    width, height = source.displayed
    scale = min(1.0, LONGEST / max(width, height))
    small = tuple(max(SMALLEST_CROP, int(side * scale) & ~1) for side in (width, height))
    slots = [n for first, stop in usable_slots(source, rate) for n in range(first, stop)] or [0]
    finder = FaceFinder()
    tracks: list[Track] = []
    framing = Framing(small[0], small[1], (0, 0, width, height))
    with closing(VideoReader(source, rate, framing, heartbeat)) as pictures:
        for number, slot in enumerate(slots):
            frame = pictures.at(slot).frame
            picture = frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
            for face in finder.faces(picture):
                follow(tracks, number, face)
            heartbeat()
    return tracks, [float(slot / rate) for slot in slots], small[0] / width


def follow(tracks: list[Track], number: int, face: Face) -> None:
    """Put a face of picture `number` to the track that it continues, or begin one."""
    near = [
        (float(np.linalg.norm(track.faces[-1].centre - face.centre)) / face.height, track)
        for track in tracks
        if track.numbers[-1] < number and 0.6 < track.faces[-1].height / max(face.height, 1.0) < 1.6
    ]
    distance, track = min(near, key=lambda pair: pair[0], default=(np.inf, None))
    if track is None or distance > NEAR * (number - track.numbers[-1]):
        tracks.append(Track([number], [face]))
    else:
        track.numbers.append(number)
        track.faces.append(face)


def choose(tracks: list[Track], choice: str) -> Track | None:
    """The largest face that speaks, or (`largest`, or where none speaks) the largest; None where there is none.

    A face that is in few of the pictures is somebody who passes: those in at least half as many as the most seen count.
    """
    if not tracks:
        return None
    often = max(len(track.numbers) for track in tracks)
    there = [track for track in tracks if 2 * len(track.numbers) >= often]
    speaking = [track for track in there if track.movement > SPEAKS]
    return max(speaking if choice == "speaking" and speaking else there, key=lambda track: track.height)


def size_of(track: Track, part: str, video: Video, whole: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height of the box in pixels as displayed: even, of the output's proportions, not above the picture.

    Raises MediaError (`too_small`).
    """
    side = SIDES[part] * video.face_margin * track.height / scale
    aspect = video.width / video.height
    tall = int(min(side / min(1.0, aspect), whole[1], whole[0] / aspect)) & ~1
    wide = int(min(tall * aspect, whole[0])) & ~1
    if min(wide, tall) < SMALLEST_CROP:
        raise MediaError("too_small", f"its face is too small: the {part} are {wide}x{tall} pixels")
    return wide, tall


def place(middle: np.ndarray, size: tuple[int, int], whole: tuple[int, int]) -> Box:
    """The box of that size about a point, rounded to STEPS of its size and to even pixels, inside the picture."""
    edges = []
    for centre, side, limit in zip(middle, size, whole, strict=True):
        step = max(2, side // STEPS & ~1)
        start = round((float(centre) - side / 2) / step) * step
        edges.append(max(0, min(start, limit - side & ~1)))
    return edges[0], edges[1], *size
