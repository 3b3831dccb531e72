"""One picture out of any file: a photograph, a drawing, or the first picture of a video."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.media.errors import MediaError
from soundvid.media.geometry import UPRIGHT, Framing
from soundvid.media.heif import heif_orientation, is_tiled, read_grid, read_tiles
from soundvid.media.orientation import exif_orientation, turned
from soundvid.media.probe import probe
from soundvid.media.video_reader import VideoReader

LARGEST = 512 << 20  # bytes of a picture file
MOST_PIXELS = 1 << 28  # soundvid/__init__.py says the same to OpenCV
_HEIF = (b"heic", b"heix", b"mif1", b"heim", b"heis")
LARGEST_SIDE = 8192  # pixels, of the first picture of a video: 8K is taken as it is
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


def read_image(path: Path, size: int, share: float = 1.0) -> np.ndarray:
    """The centred square of a picture as uint8 (`size`, `size`, 3) RGB; see `read_full_image`.

    The square's side is `share` of the picture's shorter one.
    """
    return square(read_full_image(path), size, share)


def read_full_image(path: Path) -> np.ndarray:
    """A picture as it is meant to be looked at: uint8 `H W 3` RGB.

    PNG, JPEG, WebP, AVIF, BMP and TIFF of any size: turned as EXIF says, grey and 16 bits converted, what is
    transparent laid on white. Of a video the first picture. Raises SoundvidError with one line.
    """
    try:
        length = path.stat().st_size
    except OSError as error:
        raise SoundvidError(f"{path}: the image cannot be read ({os.strerror(error.errno or 0)})") from error
    if path.is_dir():
        raise SoundvidError(f"{path}: is a folder; --image takes one picture (or a video: its first picture is taken)")
    if length == 0:
        raise SoundvidError(f"{path}: the image is empty (0 bytes)")
    with open(path, "rb") as file:
        head = file.read(24)
    if head.startswith(_MAGIC) or head[8:12] == b"WEBP" or head[4:12] in (b"ftypavif", b"ftypavis"):
        if length > LARGEST:
            raise SoundvidError(
                f"{path}: {length >> 20} MiB is no size for a picture; {LARGEST >> 20} MiB is the limit"
            )
        # A PNG of one colour is small however many pixels it has; its header says how many.
        if head.startswith(b"\x89PNG") and int.from_bytes(head[16:20]) * int.from_bytes(head[20:24]) > MOST_PIXELS:
            raise SoundvidError(f"{path}: the image is larger than {MOST_PIXELS >> 20} megapixels; make it smaller")
        return _decode(path)
    if head[4:8] == b"ftyp" and length <= LARGEST and head[8:12] in _HEIF:
        data = path.read_bytes()
        if is_tiled(data):
            return _tiled(path, data)
    return _first_picture(path)


def _tiled(path: Path, data: bytes) -> np.ndarray:
    """A HEIC photograph of tiles: uint8 `H W 3` RGB."""
    grid = read_grid(data)
    if grid is None or grid.width * grid.height > MOST_PIXELS:
        why = "broken" if grid is None else f"larger than {MOST_PIXELS >> 20} megapixels"
        raise SoundvidError(f"{path}: is a HEIC photograph in tiles and {why}; convert it to JPEG or PNG")
    try:
        picture = read_tiles(path, grid)
    except MediaError as error:
        raise SoundvidError(f"{path}: {error.message}; convert it to JPEG or PNG") from error
    return np.ascontiguousarray(turned(picture, heif_orientation(data) or UPRIGHT))


def _decode(path: Path) -> np.ndarray:
    """A picture file's pixels: uint8 `H W 3` RGB."""
    import cv2

    data = np.frombuffer(path.read_bytes(), np.uint8)
    is_avif = bytes(data[4:8]) == b"ftyp"  # of which OpenCV applies no orientation of its own
    try:
        colour = cv2.imdecode(data, cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if is_avif else 0))
        # Only IMREAD_UNCHANGED keeps alpha, and it does not turn the picture.
        whole, kinds, metadata = cv2.imdecodeWithMetadata(data, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise SoundvidError(f"{path}: the image is larger than {MOST_PIXELS >> 20} megapixels, or broken") from error
    if colour is None and is_avif:  # OpenCV takes no mirrored and turned AVIF with alpha; FFmpeg does, without alpha
        return _first_picture(path)
    if colour is None:
        raise SoundvidError(f"{path}: the image is broken or cut off")
    exif = next((m for k, m in zip(kinds, metadata, strict=True) if k == cv2.IMAGE_METADATA_EXIF), None)
    orientation = UPRIGHT if exif is None else exif_orientation(np.asarray(exif).tobytes())
    if is_avif:
        orientation = heif_orientation(data.tobytes()) or orientation
    has_alpha = whole is not None and whole.ndim == 3 and whole.shape[2] == 4
    if has_alpha:
        top = {"uint8": 255.0, "uint16": 65535.0}.get(whole.dtype.name, 1.0)
        alpha = (whole[..., 3:].astype(np.float32) / top).clip(0, 1)
        # The unchanged picture's colours: behind full transparency the others hold rubbish.
        laid = whole[..., :3].astype(np.float32) * (255 / top) * alpha + 255 * (1 - alpha)
        colour = np.rint(laid).astype(np.uint8)
    if has_alpha or is_avif:
        colour = turned(colour, orientation)
    return np.ascontiguousarray(colour[..., ::-1])


def square(picture: np.ndarray, size: int, share: float = 1.0) -> np.ndarray:
    """The centred square of a picture (uint8 `H W 3`), `share` of its shorter side, at `size` pixels a side."""
    import cv2

    height, width = picture.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    cut = np.ascontiguousarray(picture[top : top + side, left : left + side])
    return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def _first_picture(path: Path) -> np.ndarray:
    """The first picture of a video, whole, in even numbers of pixels, at most LARGEST_SIDE a side."""
    try:
        source = probe(path)
        width, height = source.displayed
        if width * height > MOST_PIXELS:
            raise SoundvidError(f"{path}: its pictures are larger than {MOST_PIXELS >> 20} megapixels")
        # A larger one is made smaller while it is converted: whole, several copies of it would fill the memory.
        share = min(1.0, LARGEST_SIDE / max(width, height))
        width, height = max(2, int(share * width)), max(2, int(share * height))
        pictures = VideoReader(source, Fraction(30), Framing(width - width % 2, height - height % 2))
        try:
            frame = pictures.at(0).frame
        finally:
            pictures.close()
    except MediaError as error:
        reason = "is no image (PNG, JPEG, WebP ...) and no video" if error.code == "not_media" else error.message
        raise SoundvidError(f"{path}: {reason}; give --image one picture") from error
    return frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
