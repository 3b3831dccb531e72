"""What rendering leaves of a source: its clips' pictures and sound once, and what was measured of every planned clip.

    <work>/<source id>.<render key>/part.json       the plan, measurements, and where each clip's members lie
    <work>/<source id>.<render key>/media-<n>.bin    MP4 and FLAC of rendered clips, one after the other

A part is there when its part.json is. Clips that a threshold lets in later come as one more media file, and part.json
is replaced; nothing is rendered twice.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soundvid.media.clock import Window
from soundvid.util.files import replace_file, storing
from soundvid.util.hashing import canonical_json
from soundvid.util.schema import checked
from soundvid.verdict import Verdict

PART_FORMAT = 1


@dataclass(frozen=True)
class MediaLocation:
    """Where a rendered clip's MP4 and FLAC (of size 0: it has no sound) lie. `sha256` of both, one after the other;
    None: not known."""

    path: Path
    mp4_offset: int
    mp4_size: int
    flac_offset: int
    flac_size: int
    sha256: str | None = None

    @property
    def places(self) -> tuple[int, int, int, int]:
        """Offset and size of the MP4, offset and size of the FLAC, in bytes."""
        return self.mp4_offset, self.mp4_size, self.flac_offset, self.flac_size

    def read(self) -> tuple[bytes, bytes]:
        """MP4 and FLAC. Raises OSError, or ValueError where they are not what was rendered."""
        with self.path.open("rb") as file:
            mp4 = os.pread(file.fileno(), self.mp4_size, self.mp4_offset)
            flac = os.pread(file.fileno(), self.flac_size, self.flac_offset)
        if self.sha256 is not None and hashlib.sha256(mp4 + flac).hexdigest() != self.sha256:
            raise ValueError(f"{self.path}: its content is not what was written")
        return mp4, flac


@dataclass(frozen=True)
class PartClip:
    """A planned clip: refused by the plan (`code`), or measured, and rendered where the thresholds kept it.

    Neither measures nor code: the clip was known before and nothing was done about it.
    """

    start_frame: int
    frames: int
    code: str = ""
    message: str = ""
    measures: dict[str, float | None] | None = None
    media: dict[str, Any] | None = None  # file, mp4_offset, mp4_size, flac_offset, flac_size, sha256

    @property
    def window(self) -> Window:
        return Window(self.start_frame, self.frames)


@dataclass(frozen=True)
class Part:
    """What became of a source under one plan. `verdict`: why it has no clips at all; None: it has."""

    source_id: str
    plan_key: str
    verdict: Verdict | None
    facts: dict[str, Any] = field(default_factory=dict)  # columns of schema.SOURCE_FACTS
    clips: tuple[PartClip, ...] = ()

    def location(self, folder: Path, clip: PartClip) -> MediaLocation | None:
        """Where a clip of the part in `folder` lies; None: it was not rendered."""
        if clip.media is None:
            return None
        places = {k: v for k, v in clip.media.items() if k != "file"}
        return MediaLocation(folder / clip.media["file"], **places)

    def write(self, folder: Path) -> None:
        """Make this the content of the part, and remove media files that it does not name."""
        value = {"format": PART_FORMAT, **asdict(self)}
        with storing(folder.parent):
            replace_file(folder / "part.json", canonical_json(value))
            named = {c.media["file"] for c in self.clips if c.media is not None}
            for path in folder.glob("media-*.bin"):
                if path.name not in named:
                    path.unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> "Part | None":
        """The part in `folder`; None where there is none, or it is not whole."""
        try:
            data = json.loads((folder / "part.json").read_bytes())
            if data.pop("format") != PART_FORMAT:
                return None
            verdict = data.pop("verdict")
            clips = tuple(PartClip(**c) for c in data.pop("clips"))
            part = checked(cls(**data, verdict=verdict and Verdict(**verdict), clips=clips))
            ends: dict[str, int] = {}
            for clip in clips:
                location = part.location(folder, clip)
                if location is not None:
                    checked(location)
                    if location.path.parent != folder or min(location.places) < 0:
                        return None
                    end = max(map(sum, zip(location.places[::2], location.places[1::2], strict=True)))
                    ends[location.path.name] = max(ends.get(location.path.name, 0), end)
            whole = all((folder / name).stat().st_size >= end for name, end in ends.items())
            return part if whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


class MediaWriter:
    """A media file that is being written; its final name says its content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hidden = folder / f".media.{os.getpid()}"
        self.size, self.digest = 0, hashlib.sha256()
        with storing(folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = self.hidden.open("wb")

    def add(self, mp4: bytes, flac: bytes) -> dict[str, Any]:
        """Write a clip; returns its place as PartClip.media has it, without the file's name."""
        both = mp4 + flac
        with storing(self.folder.parent):
            self.file.write(both)
        self.digest.update(both)
        start, self.size = self.size, self.size + len(both)
        return {
            "mp4_offset": start,
            "mp4_size": len(mp4),
            "flac_offset": start + len(mp4),
            "flac_size": len(flac),
            "sha256": hashlib.sha256(both).hexdigest(),
        }

    def finish(self) -> str:
        """Close the file and make it appear; returns its name."""
        name = f"media-{self.digest.hexdigest()[:12]}.bin"
        with storing(self.folder.parent):
            self.file.close()
            os.replace(self.hidden, self.folder / name)
        return name

    def discard(self) -> None:
        """Remove what was not finished."""
        self.file.close()
        self.hidden.unlink(missing_ok=True)


def remove_parts(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
