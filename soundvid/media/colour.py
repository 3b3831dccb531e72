"""What the colours of a picture mean, and the table that turns HDR and BT.2020 into those of ordinary video.

HDR (PQ and HLG, ITU-R BT.2100) and pictures in the primaries of BT.2020 are converted through one table of three
dimensions, which FFmpeg's lut3d filter applies after scaling. Other primaries are near enough to those of BT.709.

1. to light: PQ as it states it (SMPTE ST 2084); HLG through the gamma of 1.2 of a display of 1000 cd/m2 (BT.2100);
2. reference white, 203 cd/m2 (BT.2408), becomes the white of ordinary video;
3. to the primaries of BT.709; what lies outside them loses saturation and keeps its luminance;
4. what is brighter than `KNEE` of white is compressed so that `PEAK` is white; below it nothing changes;
5. to the curve of sRGB, as screens and image models take the pictures of the web.
"""

import math
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Of ITU-T H.273, as PyAV gives them.
UNSPECIFIED = 2
PQ, HLG = 16, 18
HDR = (PQ, HLG)
BT2020_NCL = 9  # matrix
TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 11: "iec61966-2-4",
    12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428",
    18: "arib-std-b67",
}  # fmt: skip
PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
WHITE = 203.0  # cd/m2 of reference white
PEAK = 1000.0  # cd/m2 that become white
KNEE = 0.85  # of white, as light
SIZE = 33  # places of the table on each axis

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709
_D65 = (0.3127, 0.3290)
_CHROMATICITY = {  # of red, green, blue
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "smpte432": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


@dataclass(frozen=True)
class Colours:
    """What the values of a picture mean: numbers of ITU-T H.273."""

    transfer: int
    primaries: int


def needs_table(transfer: int, primaries: int) -> bool:
    """Whether the colours are converted through a table: HDR, or the primaries of BT.2020."""
    return transfer in HDR or PRIMARIES.get(primaries) == "bt2020"


def _to_xyz(name: str) -> np.ndarray:
    """The matrix (3, 3) from linear RGB of these primaries, white at D65, to CIE XYZ."""

    def xyz(x: float, y: float) -> np.ndarray:
        return np.array([x / y, 1.0, (1 - x - y) / y])

    columns = np.stack([xyz(*point) for point in _CHROMATICITY[name]], axis=1)
    scale: np.ndarray = np.linalg.solve(columns, xyz(*_D65))
    return columns * scale


def _pq_light(code: np.ndarray) -> np.ndarray:
    """Light in cd/m2 of PQ values in [0, 1] (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    light: np.ndarray = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return light


def _hlg_light(code: np.ndarray) -> np.ndarray:
    """Light in cd/m2 on a display of 1000 cd/m2 of HLG values (... x 3) in [0, 1], primaries BT.2020."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    luminance = (scene @ np.array([0.2627, 0.6780, 0.0593]))[..., None]
    return 1000 * scene * luminance**0.2


def _compressed(rgb: np.ndarray) -> np.ndarray:
    """Linear light, 1 at reference white, brought to at most 1: the largest component follows a curve that leaves the
    knee with slope 1 and reaches 1 at the peak; the others keep their proportion to it."""
    largest = rgb.max(axis=-1, keepdims=True)
    span, room = PEAK / WHITE - KNEE, 1 - KNEE
    x = np.clip((largest - KNEE) / span, 0, 1)
    # x (1 + s) / (1 + s x) has the slope 1 + s at 0; in units of light it is 1 at the knee for this s.
    s = span / room - 1
    curve = np.where(largest > KNEE, KNEE + room * x * (1 + s) / (1 + s * x), largest)
    return rgb * curve / np.maximum(largest, 1e-9)


def _in_gamut(rgb: np.ndarray) -> np.ndarray:
    """Linear BT.709 without negative components: moved towards the grey of the same luminance as far as needed."""
    grey = np.maximum(rgb @ _LUMA, 0)[..., None]
    least = rgb.min(axis=-1, keepdims=True)
    share = np.where(least < 0, grey / np.maximum(grey - least, 1e-9), 1.0)
    return grey + (rgb - grey) * share


def _srgb(light: np.ndarray) -> np.ndarray:
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.clip(curve, 0, 1)


def converted(code: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """RGB values (... x 3 in [0, 1]) of a source as RGB values of ordinary video, BT.709 on the curve of sRGB.

    `transfer` and `primaries` are numbers of H.273; HDR without stated primaries has those of BT.2020.
    """
    name = PRIMARIES.get(primaries, "bt2020")
    name = name if name in _CHROMATICITY else "bt2020" if transfer in HDR and primaries == UNSPECIFIED else "bt709"
    matrix = np.linalg.inv(_to_xyz("bt709")) @ _to_xyz(name)
    if transfer not in HDR:  # the same curve before and after: only the primaries change
        return np.clip(_in_gamut((code**2.4) @ matrix.T), 0, 1) ** (1 / 2.4)
    light = _pq_light(code) if transfer == PQ else _hlg_light(code)
    return _srgb(_in_gamut(_compressed(light / WHITE @ matrix.T)))


@cache
def table_text(transfer: int, primaries: int) -> str:
    """The conversion as the text of a .cube file."""
    axis = np.linspace(0, 1, SIZE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red changes fastest
    values = converted(np.stack([red, green, blue], axis=-1), transfer, primaries).reshape(-1, 3)
    rows = "\n".join(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in values)
    return f"LUT_3D_SIZE {SIZE}\n{rows}\n"


class TableFile:
    """The conversion as a temporary .cube file, which is what FFmpeg's lut3d reads; removed on leaving the block."""

    def __init__(self, transfer: int, primaries: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="soundvid-")
        self.path = Path(self._folder.name) / "table.cube"
        self.path.write_text(table_text(transfer, primaries))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
