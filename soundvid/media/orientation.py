"""How a picture is to be turned and mirrored: display matrices of frames, and EXIF."""

import re
import struct
from typing import Any, cast

import av
import numpy as np

from soundvid.media.errors import MediaError
from soundvid.media.geometry import UPRIGHT, Orientation

# EXIF's orientations 1 to 8 (CIPA DC-008), see Geometry: (a, b, c, d).
EXIF: dict[int, Orientation] = {
    1: UPRIGHT,
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
_ORIENTATION = 0x0112  # EXIF's tag
_MOST = 1000  # properties or entries; a damaged file may claim any number


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How the display matrix of a frame turns and mirrors it. Raises MediaError (`odd_angle`)."""
    side = _display_matrix(frame)
    if side is None:
        return UPRIGHT
    matrix = struct.unpack("<9i", side[:36])
    values = (matrix[0], matrix[1], matrix[3], matrix[4])
    largest = max(map(abs, values))
    signs = [0 if abs(v) < largest / 50 else (1 if v > 0 else -1) for v in values]
    a, b, c, d = signs
    if not ((a and d and not b and not c) or (b and c and not a and not d)):
        raise MediaError("odd_angle", f"is to be shown turned by {frame.rotation} degrees: re-encode it upright")
    return a, b, c, d


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    """The display matrix in a frame's side data.

    PyAV gives all side data of a frame or, where it does not know the type of one (EXIF is 31), none: those are
    dropped by FFmpeg's filter `sidedata` until it does.
    """
    for _ in range(_MOST):
        try:
            side = frame.side_data.get("DISPLAYMATRIX")
        except ValueError as error:
            unknown = re.match(r"(\d+) is not a valid", str(error))
            if unknown is None:
                return None
            frame = _without_side_data(frame, int(unknown[1]))
        else:
            return None if side is None else bytes(cast(Any, side))
    return None


def _without_side_data(frame: av.VideoFrame, kind: int) -> av.VideoFrame:
    graph = av.filter.Graph()
    chain = [
        graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
            f":pixel_aspect=1/1:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        ),
        graph.add("sidedata", f"mode=delete:type={kind}"),
        graph.add("buffersink"),
    ]
    for left, right in zip(chain, chain[1:], strict=False):
        left.link_to(right)
    graph.configure()
    graph.push(frame)
    return graph.vpull()


def turned(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    """A picture (`H W ...`) as it is to be shown."""
    a, b, c, d = orientation
    if a == 0:
        picture = picture.swapaxes(0, 1)
    across, down = (c, b) if a == 0 else (a, d)
    return picture[::down, ::across]


def exif_orientation(tiff: bytes) -> Orientation:
    """The orientation that EXIF states (`tiff` begins with its TIFF header); upright where it states none."""
    tiff = tiff.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (place,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, place)
        for number in range(min(count, _MOST)):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place + 2 + 12 * number)
            if tag == _ORIENTATION:
                return EXIF.get(value, UPRIGHT)
    except struct.error:
        pass  # cut off
    return UPRIGHT
