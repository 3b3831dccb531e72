"""Clips for a page: which ones, and their contact sheet, waveform and spectrogram on one time axis.

Drawn with numpy alone: importing a plotting library would cost more than all pictures of a page.
"""

import base64
import io
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce
from math import ceil, log2, log10
from struct import pack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from soundvid.features.base import Panel
from soundvid.media.clip_codec import decode_flac, decode_rgb, with_sound
from soundvid.media.encode import encode_jpeg
from soundvid.store.dataset import SPLITS, Dataset, Release
from soundvid.store.schema import MEMBERS, count_by
from soundvid.util.hashing import uniform64

Row = dict[str, Any]

CARDS = 8  # clips on a page
NEW_CARDS = 4  # of them drawn by one build, unless it brought more new subjects
FIGURE = "1"  # raised when the figure's HTML changes: older figures are then not taken over
SHEET_WIDTH = 1200  # pixels of the contact sheet; it is shown at about 800, so fine screens have enough
COLUMNS, ROWS = 800, 144  # pixels of the spectrogram
THUMBNAILS, THUMBNAIL_HEIGHT, THUMBNAIL_WAVE = 3, 120, 160  # pictures, their rows of pixels, columns of the waveform
RANGE_DB = 70.0  # between the darkest and the brightest colour
TOP_HZ = 16000.0
VIDEO_BYTES = 560_000  # of one clip on the page; longer ones play their beginning
# A polynomial of degree 6 through matplotlib's "magma" (fit by M. Zucker, CC0); rows are powers, columns RGB.
_MAGMA = np.array(
    [
        (-0.002136485053939582, -0.000749655052795221, -0.005386127855323933),
        (0.2516605407371642, 0.6775232436837668, 2.494026599312351),
        (8.353717279216625, -3.577719514958484, 0.3144679030132573),
        (-27.66873308576866, 14.26473078096533, -13.64921318813922),
        (52.17613981234068, -27.94360607168351, 12.94416944238394),
        (-50.76852536473588, 29.04658282127291, 4.23415299384598),
        (18.65570506591883, -11.48977351997711, -5.601961508734096),
    ]
)


@dataclass(frozen=True)
class Lane:
    """A feature on the clip's time axis: an image for a heatmap, paths for curves."""

    name: str
    axis: str  # what the vertical axis shows, with its unit and its ends
    image: str | None  # data URI
    curves: list[tuple[str, str]]  # label, `d` of an SVG path in a box of 0..COLUMNS x 0..100


@dataclass(frozen=True)
class Figure:
    """A clip ready for the template. Places on axes are per cent of the lane's width or height."""

    sheet: str  # data URI
    cells: int
    wave: str  # `d` of an SVG path in a box of 0..COLUMNS x -100..100; empty: the clip has no sound
    spectrogram: str  # data URI; empty: the clip has no sound
    video: str  # data URI, or an address
    poster: str  # data URI
    width: int  # pixels of the video
    height: int
    seconds: float
    plays_seconds: float  # how much of it the video holds
    peak: str
    times: list[tuple[float, str]]
    pitches: list[tuple[float, str]]
    lanes: Sequence[Lane] = ()  # features in addition to the spectrogram


def figure(
    mp4: bytes, flac: bytes, frames: int, seconds: float, lanes: Sequence[Lane] = (), *, video: str | None = None
) -> Figure:
    """All pictures of a clip of `frames` pictures that lasts `seconds`; no `flac`: it has no sound.

    The clip is inside the figure, cut after VIDEO_BYTES, unless `video` is an address where it can be played.
    """
    first = decode_rgb(mp4, [0])[0]
    height, width = first.shape[:2]
    cells = min(sheet_cells(width / height), frames)
    cell = SHEET_WIDTH // cells // 2 * 2
    pictures = decode_rgb(mp4, sheet_frames(frames, cells), height=max(2, round(cell * height / width / 2) * 2))
    sound, rate = decode_flac(flac) if flac else (np.zeros(0, np.int16), 0)
    plays = seconds if video or len(mp4) <= VIDEO_BYTES else seconds * VIDEO_BYTES / len(mp4)
    if video is None:
        video = data_uri("video/mp4", with_sound(mp4, flac, seconds=None if plays == seconds else plays))
    peak = float(np.abs(sound.astype(np.int32)).max(initial=0)) / 32768
    shrink = ceil(max(height, width) / 640)
    return Figure(
        sheet=data_uri("image/jpeg", encode_jpeg(np.concatenate(list(pictures), axis=1), 4)),
        cells=cells,
        wave=waveform(sound) if rate else "",
        spectrogram=data_uri("image/png", png(spectrogram(sound, rate), magma(256))) if rate else "",
        video=video,
        poster=data_uri("image/jpeg", encode_jpeg(np.ascontiguousarray(first[::shrink, ::shrink]), 4)),
        width=width,
        height=height,
        seconds=seconds,
        plays_seconds=plays,
        peak=f"{decibel(20 * log10(peak))} dB" if peak else "silent" if rate else "",
        times=time_ticks(seconds),
        pitches=pitch_ticks(rate) if rate else [],
        lanes=lanes,
    )


def feature_lanes(dataset: Dataset, manifest: dict[str, Any], row: Row) -> list[Lane]:
    """A lane for each feature of a clip as its panel describes it; the spectrogram has its own."""
    return stored_lanes(
        manifest, row, lambda name: np.load(io.BytesIO(dataset.read_member(row, name)), allow_pickle=False)
    )


def stored_lanes(manifest: dict[str, Any], row: Row, read: Callable[[str], np.ndarray]) -> list[Lane]:
    """The same where `read` gives the stored rows of a feature."""
    from soundvid.features import registry
    from soundvid.features.base import ClipFormat

    shape = ClipFormat(Fraction(row["fps_exact"]), row["sample_rate"], row["width"], row["height"])
    lanes = []
    for name in (n.removesuffix("_offset") for n in row if n.endswith("_offset") and row[n] is not None):
        if name in MEMBERS or name in ("sample", "spectrogram"):
            continue
        cls = registry.get(name)
        feature = cls(cls.Options.model_validate(manifest["recipe"]["features"].get(name) or {}), shape)
        values = read(name).astype(np.float64)
        lanes.append(feature_lane(name, feature.panel(), values.reshape(len(values), -1)))
    return lanes


def feature_lane(name: str, panel: Panel, values: np.ndarray) -> Lane:
    """The rows `values` (`R N`) of a feature over the whole width: row r holds [r, r + 1) / R of the clip."""
    if not len(values):
        return Lane(name, panel.axis, None, [])
    column_of = np.arange(COLUMNS) * len(values) // COLUMNS
    if panel.kind == "heatmap":
        values = values[:, : panel.first]
        if panel.decibels:
            values = 20 * np.log10(np.maximum(values, 1e-9))
            values = np.maximum(values, values.max() - RANGE_DB)
        low, high = float(values.min()), float(values.max())
        level = ((values - low) * (255 / (high - low or 1))).round().astype(np.uint8)
        limits = f" {panel.limits[0]:g} to {panel.limits[1]:g}" if panel.limits else ""
        axis = f"{panel.axis}{limits}; {panel.values} {decibel(low)} to {decibel(high)}"
        return Lane(name, axis, data_uri("image/png", png(level[column_of].T[::-1], magma(256))), [])
    low, high = min(0.0, float(values.min())), float(values.max())
    heights = (100 - (values - low) * (100 / (high - low or 1))).round(1)
    edges = [round(r * COLUMNS / len(values), 1) for r in range(len(values) + 1)]
    labels = panel.labels or ("",) * values.shape[1]
    curves = [
        (label, f"M0 {ys[0]:g}" + "".join(f"V{y:g}H{x:g}" for y, x in zip(ys, edges[1:], strict=True)))
        for label, ys in zip(labels, heights.T.tolist(), strict=True)
    ]
    return Lane(name, f"{panel.axis}, {low:.3g} to {high:.3g}", None, curves)


def thumbnail(row: Row, mp4: bytes, flac: bytes) -> tuple[str, int, str]:
    """A clip at a glance: a few pictures side by side (data URI), how many, and its waveform as an SVG path.

    The pictures are those at which decoding can begin, near the middles of as many stretches. The path lies in a box of
    0..THUMBNAIL_WAVE x -100..100; without `flac` it is empty.
    """
    starts = row["keyframes"] or [0]
    wanted = [(2 * i + 1) * row["frames"] // (2 * THUMBNAILS) for i in range(THUMBNAILS)]
    pictures = decode_rgb(mp4, sorted({min(starts, key=lambda s: abs(s - w)) for w in wanted}), height=THUMBNAIL_HEIGHT)
    strip = np.concatenate(list(pictures), axis=1)
    wave = waveform(decode_flac(flac)[0], THUMBNAIL_WAVE) if flac else ""
    return data_uri("image/jpeg", encode_jpeg(strip, 5)), len(pictures), wave


def sheet_cells(aspect: float) -> int:
    """Pictures of a contact sheet, so that wide and tall clips both give a strip of good height."""
    return 8 if aspect > 1.2 else 10 if aspect < 0.8 else 9


def sheet_frames(frames: int, cells: int) -> list[int]:
    """The pictures shown at the middle of each cell, so that a cell stands over its own stretch of sound."""
    return [(2 * i + 1) * frames // (2 * cells) for i in range(cells)]


def waveform(sound: np.ndarray, width: int = COLUMNS) -> str:
    """Outline of int16 sound (`N` samples) as an SVG path: lowest and highest sample of each of `width` columns.

    Scaled so that the peak touches the edge; column c holds the samples of [c, c + 1) / `width` of the clip.
    """
    columns = min(width, len(sound))
    if not columns or not (peak := np.abs(sound.astype(np.int32)).max()):
        return f"M0 -0.5H{width}V0.5H0Z"
    edges = np.arange(columns) * len(sound) // columns
    scale = 100 / peak
    # Up is negative in SVG. Half a unit at least, so that silence is a line and not nothing.
    high = np.minimum(-np.maximum.reduceat(sound, edges) * scale, -0.5).round(1).tolist()
    low = np.maximum(-np.minimum.reduceat(sound, edges) * scale, 0.5).round(1).tolist()
    step = width / columns
    xs = [round(c * step, 1) for c in range(columns + 1)]
    # Each column is a step from its left to its right edge.
    upper = "".join(f"V{y:g}H{x:g}" for y, x in zip(high, xs[1:], strict=True))
    lower = "".join(f"V{y:g}H{x:g}" for y, x in zip(reversed(low), reversed(xs[:-1]), strict=True))
    return f"M0 0{upper}{lower}Z"


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def spectrogram(sound: np.ndarray, rate: int) -> np.ndarray:
    """Picture (uint8, `ROWS COLUMNS`) of int16 sound: 255 is the loudest spot, 0 lies RANGE_DB below it.

    Column c looks at the sound around the middle of its stretch, row 0 is the top: min(TOP_HZ, rate / 2) on
    the mel scale.
    """
    length = 1 << round(log2(rate * 0.024))  # 23 ms at 44,100 Hz: an onset stays where it is heard
    half = length // 2
    padded = np.pad(sound.astype(np.float32), (half, half))
    middles = (2 * np.arange(COLUMNS) + 1) * len(sound) // (2 * COLUMNS)
    window = np.hanning(length).astype(np.float32)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, length)[middles] * window
    # Mean power of the bins that a row spans, from a running sum: rows of low frequencies share bins.
    top = min(TOP_HZ, rate / 2)
    edges = 700 * (10 ** (np.linspace(_mel(top), 0, ROWS + 1) / 2595) - 1) / rate * 2 * length
    low = np.minimum(np.floor(edges[1:]).astype(int), length)
    high = np.maximum(np.minimum(np.ceil(edges[:-1]).astype(int), length + 1), low + 1)
    spectrum = np.fft.rfft(blocks, 2 * length, axis=1)[:, : high.max()]
    power = spectrum.real**2 + spectrum.imag**2
    summed = np.concatenate([np.zeros((COLUMNS, 1)), np.cumsum(power, axis=1, dtype=np.float64)], axis=1)
    mean = (summed[:, high] - summed[:, low]) / (high - low)
    peak = mean.max()
    if peak <= 0:
        return np.zeros((ROWS, COLUMNS), np.uint8)
    level = 1 + 10 * np.log10(np.maximum(mean / peak, 1e-12)) / RANGE_DB
    # 64 levels: about one decibel, and half the bytes.
    return (np.clip(level * 63, 0, 63).round() * 255 / 63).astype(np.uint8).T


def magma(colours: int) -> np.ndarray:
    """A perceptual colour map, dark to bright: uint8 `colours 3`."""
    x = np.linspace(0, 1, colours)[:, None] ** np.arange(7)
    return np.clip(x @ _MAGMA * 255, 0, 255).round().astype(np.uint8)


def png(picture: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG of uint8 `H W` indices into `palette` (uint8, `up to 256, 3`)."""
    height, width = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture], axis=1)  # 0: the row is not filtered
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + chunk(b"IEND", b"")
    )


def decibel(level: float) -> str:
    """A level to read, with a true minus and no negative zero."""
    return f"{round(level, 1) + 0.0:.1f}".replace("-", "−")


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def time_ticks(seconds: float, most: int = 8) -> list[tuple[float, str]]:
    """Round times of an axis from 0 to `seconds`: (per cent from the left, label)."""
    steps = [m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5)]
    step = next((s for s in steps if seconds / s <= most), seconds)
    count = int(seconds / step + 1e-6)
    return [(100 * i * step / seconds, f"{i * step:g}") for i in range(count + 1)]


def pitch_ticks(rate: int, marks: Sequence[int] = (500, 1000, 2000, 4000, 8000)) -> list[tuple[float, str]]:
    """Frequencies of the spectrogram's axis: (per cent from the bottom, label)."""
    top = float(_mel(min(TOP_HZ, rate / 2)))
    places = [(100 * float(_mel(f)) / top, f) for f in marks]
    return [(p, f"{f // 1000} kHz" if f >= 1000 else f"{f}") for p, f in places if p <= 95]


# -- which clips


def cards(
    dataset: Dataset, manifest: dict[str, Any], samples: pa.Table, ledger: pa.Table, previous: Release | None
) -> list[dict[str, Any]]:
    """What is known of each chosen clip: `row`, `new`, and its figure: new (`figure`) or taken over (`html`)."""
    old = previous.manifest if previous else {"shards": [], "subjects": []}
    old_subjects = {s["subject"] for s in old["subjects"]}
    figures = old_figures(previous)
    drawn = pc.is_in(samples.column("key"), value_set=pa.array([k for k, _ in figures], pa.string()))
    same = pc.is_in(samples.column("sha256"), value_set=pa.array([s for _, s in figures], pa.string()))
    is_there = pc.and_(drawn, same)
    old_shards = pa.array([s["file"] for s in old["shards"]], pa.string())
    in_new = pc.and_not(pc.invert(pc.is_in(samples.column("shard"), value_set=old_shards)), is_there)
    made_now = ledger.filter(
        pc.and_(pc.equal(ledger.column("kind"), "source"), pc.equal(ledger.column("origin"), "new"))
    )
    is_made_now = pc.is_in(samples.column("source_id"), value_set=made_now.column("source_id").unique())
    there, fresh = samples.filter(is_there), samples.filter(pc.and_(in_new, is_made_now))
    packed = samples.filter(pc.and_not(in_new, is_made_now))
    new_subjects = set(fresh.column("subject").unique().to_pylist()) - old_subjects
    used: Counter[Any] = Counter(("subject", s) for s in old_subjects)  # so that new subjects come first
    chosen = spread(fresh, min(CARDS, max(NEW_CARDS, len(new_subjects))), used)
    stay = spread(there, CARDS - len(chosen), Counter(k for r in chosen for k in _kinds(r)))
    # Clips that moved to another shard are drawn again only where the page would be empty.
    moved = spread(packed, max(0, NEW_CARDS - len(chosen) - len(stay)), Counter())
    result = []
    for row in [*chosen, *moved]:
        mp4, flac = (dataset.read_member(row, m) if f"{m}_offset" in row else b"" for m in ("mp4", "flac"))
        drawing = figure(mp4, flac, row["frames"], row["seconds"], feature_lanes(dataset, manifest, row))
        result.append({"row": row, "new": previous is not None and row in chosen, "figure": drawing})
    for row in stay:
        result.append({"row": row, "new": False, "html": figures[row["key"], row["sha256"]]})
    return sorted(result, key=lambda c: (not c["new"], c["row"]["subject"], SPLITS.index(c["row"]["split"])))


def old_figures(previous: Release | None) -> dict[tuple[str, str], Markup]:
    """Figures of the previous page by (key, sha256 of the sample); none where it cannot be read."""
    if previous is None:
        return {}
    try:
        page = (previous.folder / "report.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for part in page.split(f"<!--figure {FIGURE} ")[1:]:
        name, _, rest = part.partition("-->")
        body, end, _ = rest.partition("<!--/figure-->")
        words = name.split(" ")
        if end and len(words) == 2:
            found[Markup(words[0]).unescape(), words[1]] = Markup(body)  # our own page: it was escaped when it was made
    return found


def _kinds(row: Row) -> list[tuple[str, ...]]:
    subject, split = row["subject"], row["split"]
    return [("subject", subject), ("split", split), ("both", subject, split), ("source", row["source_id"])]


def spread(samples: pa.Table, count: int, used: Counter[Any]) -> list[Row]:
    """Up to `count` rows over subjects, then splits, then sources; chance decides by hash, so always alike.

    `used` says how often each has been taken already; it is counted on.
    """
    columns = ["subject", "split", "source_id"]
    left: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)  # clips of each source that are not taken yet
    for subject, split, source, clips in count_by(samples, columns):
        left[subject, split][source] = clips
    place = cache(lambda *parts: uniform64("card", *parts))
    chosen: list[Row] = []
    while left and len(chosen) < count:
        group = min(left, key=lambda g: (used["subject", g[0]], used["split", g[1]], used["both", *g], place(*g)))
        inside = left[group]
        source = min(inside, key=lambda s: (used["source", s], place(s)))
        is_here = reduce(
            pc.and_, (pc.equal(samples.column(c), v) for c, v in zip(columns, (*group, source), strict=True))
        )
        here = samples.filter(is_here)
        taken = {r["key"] for r in chosen}
        keys = [(place(k), i) for i, k in enumerate(here.column("key").to_pylist()) if k not in taken]
        (row,) = here.slice(min(keys)[1], 1).to_pylist()
        inside[source] -= 1
        if not inside[source]:
            del inside[source]
        if not inside:
            del left[group]
        used.update(_kinds(row))
        chosen.append(row)
    return chosen
