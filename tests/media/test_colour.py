"""HDR looks like the same picture in SDR: PQ and HLG, by whatever coding and container."""

from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest

from benchmarks.reference import run
from soundvid.builder.build import build
from soundvid.media.colour import converted
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.store.dataset import Dataset
from tests.conftest import toy_recipe, toy_video
from tests.helpers.bitstream import same_priority
from tests.helpers.pictures import delta_e, rgb, shown

SIZE = (192, 96)
PQ, HLG, BT2020, NCL = 16, 18, 9, 9
CODINGS = {
    "hevc": ("a.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none", "crf": "8"}),
    "hevc-mkv": ("a.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none", "crf": "8"}),
    "av1": ("a.webm", "libsvtav1", "yuv420p10le", {"preset": "12", "crf": "10"}),
    "vp9": ("a.webm", "libvpx-vp9", "yuv420p10le", {"crf": 6, "b:v": 0, "deadline": "realtime", "cpu-used": 8}),
    "h264": ("a.mov", "libx264", "yuv420p10le", {"crf": "4"}),
    "prores": ("a.mov", "prores_ks", "yuv422p10le", {}),
}


def chart() -> np.ndarray:
    """Greys, skin, primaries and mixed colours of sRGB, uint8 `H W 3`."""
    colours = [
        (235, 235, 235), (128, 128, 128), (50, 50, 50), (224, 172, 140), (140, 90, 60), (90, 120, 170),
        (200, 30, 30), (30, 160, 40), (30, 50, 200), (230, 200, 30), (180, 60, 150), (20, 140, 150),
    ]  # fmt: skip
    table = np.array(colours, np.uint8).reshape(2, 6, 3)
    return table.repeat(SIZE[1] // 2, axis=0).repeat(SIZE[0] // 6, axis=1)


def hdr_codes(picture: np.ndarray, transfer: int) -> np.ndarray:
    """RGB values in [0, 1] of BT.2020 and PQ or HLG for a picture in sRGB whose white shines with 203 cd/m2."""
    code = picture.astype(np.float64) / 255
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    light = light @ to_2020.T * 203
    if transfer == PQ:
        power = (light / 10000) ** 0.1593017578125
        values: np.ndarray = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
        return values
    display = light / 1000
    scene = display * np.maximum(display @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def write_hdr(path: Path, codec: str, pixels: str, options: dict[str, str], picture: np.ndarray, transfer: int) -> Path:
    """Six equal pictures of `picture` (sRGB) as HDR."""
    codes = hdr_codes(picture, transfer)
    luma = codes @ np.array([0.2627, 0.6780, 0.0593])
    blue, red = (codes[..., 2] - luma) / 1.8814, (codes[..., 0] - luma) / 1.4746
    planes = np.stack([64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red]).round().astype(np.uint16)
    with same_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 30)
        stream.width, stream.height, stream.pix_fmt, stream.options = *SIZE, pixels, options
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, BT2020, NCL, 1
        context.thread_count = 1
        for k in range(6):
            frame = _frame(planes, pixels)
            frame.pts, frame.time_base = k, Fraction(1, 30)
            frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, BT2020, NCL, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frame(planes: np.ndarray, pixels: str) -> av.VideoFrame:
    """10-bit Y, Cb, Cr of full size as a picture whose chroma is subsampled."""
    frame = av.VideoFrame(SIZE[0], SIZE[1], pixels)
    for plane, values in zip(frame.planes, planes, strict=True):
        small = values[:: SIZE[1] // plane.height, :: SIZE[0] // plane.width]
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = small
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize(("transfer", "limit"), [(PQ, 6), (HLG, 12)], ids=["pq", "hlg"])
@pytest.mark.parametrize("coding", CODINGS)
def test_hdr_looks_like_its_sdr_twin(tmp_path, coding, transfer, limit):
    name, codec, pixels, options = CODINGS[coding]
    path = tmp_path / name
    if coding == "vp9":  # PyAV's encoder has 8 bits only
        plain = write_hdr(tmp_path / "plain.mkv", "ffv1", pixels, {}, chart(), transfer)
        run(ffmpeg.input(str(plain)).output(str(path), **{"c:v": codec, **options}))
    else:
        write_hdr(path, codec, pixels, options, chart(), transfer)
    source = probe(path)
    assert (source.video.transfer, source.video.primaries) == (transfer, BT2020)
    for framing, wanted in ((Framing(*SIZE), chart()), (Framing(96, 96, (96, 0, 96, 96)), chart()[:, 96:])):
        picture = rgb(shown(path, framing, count=3)[2])
        assert delta_e(picture, wanted) < min(limit, 3)  # the twin is made as BT.2100 says


@pytest.mark.parametrize("transfer", [PQ, HLG], ids=["pq", "hlg"])
def test_highlights_are_compressed_and_keep_their_order(transfer):
    """What is brighter than white stays distinct up to 1000 cd/m2; greys up to 85 % of white stay what they are."""
    grey = np.repeat(np.linspace(0, 1, 500)[:, None], 3, axis=1)
    shown_as = converted(grey, transfer, BT2020)[:, 0]
    assert (np.diff(shown_as) >= -1e-9).all()
    peak = 0.7518 if transfer == PQ else 1.0  # the value of 1000 cd/m2
    white = 0.5807 if transfer == PQ else 0.75  # of 203 cd/m2 (BT.2408)
    at = lambda value: float(np.interp(value, grey[:, 0], shown_as))  # noqa: E731
    assert at(peak) == pytest.approx(1, abs=0.005)
    assert 0.93 < at(white) < 0.985


def test_a_recipe_may_refuse_hdr_and_the_ledger_says_what_it_is(tmp_path):
    folder = tmp_path / "videos"
    toy_video(folder / "sdr.mp4", seconds=1)
    pictures = write_hdr(tmp_path / "a.mp4", "libx264", "yuv420p10le", {}, chart(), HLG)
    tone = ffmpeg.input("sine=duration=1", f="lavfi")
    looped = ffmpeg.input(str(pictures), stream_loop=5)
    run(ffmpeg.output(looped, tone, str(folder / "hlg.mp4"), **{"c:v": "copy", "c:a": "aac", "t": 1}))
    for wish, outcome in (("tone_map", "kept"), ("refuse", "rejected")):
        recipe = toy_recipe(folder, video={"width": 64, "height": 64, "hdr": wish}, clips={"seconds": 0.5})
        build(recipe, store=tmp_path / wish)
        rows = Dataset(tmp_path / wish, "toy").release().ledger.to_pylist()
        source = next(r for r in rows if r["kind"] == "source" and r["name"] == "hlg.mp4")
        assert (source["outcome"], source["transfer"], source["primaries"]) == (outcome, "arib-std-b67", "bt2020")
        assert wish == "tone_map" or (source["code"] == "hdr" and "video.hdr" in source["message"])
