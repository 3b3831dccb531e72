"""Writing a clip's sound as FLAC, whole videos, and JPEG pictures. A clip's pictures: soundvid.media.clip_encoder.

Everything that could make two runs differ is pinned here: one thread, x264's `cpu-independent` paths and instruction
set, no encoder version or date in the container.
"""

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from soundvid.media import cpu

BT709 = 1  # ITU-T H.273: matrix, primaries and transfer
LIMITED = 1  # AVCOL_RANGE_MPEG: luma 16..235


def tag_bt709(context: av.VideoCodecContext) -> None:
    context.colorspace = BT709
    context.color_primaries = BT709
    context.color_trc = BT709
    context.color_range = LIMITED


def to_int16(sound: np.ndarray) -> np.ndarray:
    """Float sound in [-1, 1] to 16 bits, clipped; sound that came from 16 bits returns unchanged."""
    return np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)


def encode_flac(sound: np.ndarray, rate: int) -> bytes:
    """Encode mono 16-bit sound (int16, `N` samples) as FLAC. Lossless: it decodes to the same numbers."""
    cpu.level()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", options={"compression_level": "5"})
        stream.codec_context.format = "s16"
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        _mux_sound(container, stream, sound.reshape(1, -1), "s16")
    return buffer.getvalue()


def _mux_sound(container: av.container.OutputContainer, stream: av.AudioStream, sound: np.ndarray, form: str) -> None:
    """Send `sound` (1 x N) through `stream` in blocks of the codec's frame size and flush it."""
    block = stream.codec_context.frame_size or 4096
    for start in range(0, sound.shape[1], block):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound[:, start : start + block]), format=form, layout="mono"
        )
        frame.sample_rate = stream.rate
        frame.pts, frame.time_base = start, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_video(
    target: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    sound: np.ndarray,
    rate: int,
    *,
    crf: int = 20,
    preset: str = "veryfast",
) -> None:
    """Write pictures (uint8, `H W 3` RGB, even sizes) and mono sound (float32 in [-1, 1]) as H.264 + AAC mp4.

    Picture 0 and sample 0 belong together; the AAC encoder's priming is signalled in the container's edit
    list as usual, so the sound stays where it was put. The same pictures and sound give the same bytes.
    """
    cpu.level()
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = None
        audio = container.add_stream("aac", rate=rate, layout="mono")
        audio.codec_context.bit_rate = 128_000
        step = max(1, round(rate / fps))
        sent = 0
        sound = np.clip(sound, -1.0, 1.0).astype(np.float32)
        for index, picture in enumerate(frames):
            if video is None:
                height, width = picture.shape[:2]
                x264 = {"preset": preset, "crf": str(crf), "x264-params": cpu.x264_params()}
                video = container.add_stream("libx264", rate=fps, options=x264)
                video.width, video.height, video.pix_fmt = width, height, "yuv420p"
                video.codec_context.thread_count = 1
                video.codec_context.time_base = 1 / fps
                tag_bt709(video.codec_context)
            source = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = source.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base, frame.pict_type = index, 1 / fps, PictureType.NONE
            container.mux(video.encode(frame))
            # Sound goes in next to its pictures, so that both streams are interleaved in the file.
            due = min(len(sound), (index + 2) * step)
            sent = _feed(container, audio, sound, sent, due)
        if video is None:
            raise ValueError("write_video: there is no picture to write")
        container.mux(video.encode(None))
        _feed(container, audio, sound, sent, len(sound), final=True)
        container.mux(audio.encode(None))


def _feed(
    container: av.container.OutputContainer,
    stream: av.AudioStream,
    sound: np.ndarray,
    sent: int,
    due: int,
    *,
    final: bool = False,
) -> int:
    """Encode whole codec blocks of `sound[sent:due]` (all of it when `final`); returns how far it came."""
    block = stream.codec_context.frame_size or 1024
    while due - sent >= block or (final and sent < due):
        piece = sound[sent : min(sent + block, due)]
        frame = av.AudioFrame.from_ndarray(piece.reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = stream.rate
        frame.pts, frame.time_base = sent, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
        sent += len(piece)
    return sent


def encode_jpeg(picture: np.ndarray, quality: int = 4) -> bytes:
    """Encode a picture (uint8, `H W 3` RGB) as JPEG; `quality` is FFmpeg's q scale, 2 (best) to 31."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = picture.shape[1], picture.shape[0], "yuvj420p"
    context.time_base = Fraction(1, 25)
    context.options = {"flags": "+qscale", "global_quality": str(quality * 118), "strict": "unofficial"}
    packets = context.encode(frame.reformat(format="yuvj420p")) + context.encode(None)
    return b"".join(bytes(packet) for packet in packets)
