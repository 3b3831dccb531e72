"""Writing a video of any length as it is made: pictures as H.264, sound as AAC, both from 0, one atomic file.

Memory does not grow with the length, as long as pictures and sound are given in turns.
"""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from soundvid.media import cpu
from soundvid.media.clip_codec import AAC_RATES
from soundvid.media.encode import tag_bt709

_BLOCK = 1024  # samples of an AAC frame
BIT_RATE = 96_000  # of each channel


class VideoWriter:
    """`with VideoWriter(path, ...) as writer:` then `writer.picture(...)` and `writer.sound(...)` in turns.

    The file stands under a hidden name next to its place until all of it is written, and is then renamed; after an
    error nothing is left. Picture 0 and sample 0 belong together: there are no B-frames that would delay the
    pictures, and the AAC encoder's priming stands in the edit list, so players skip it.
    """

    def __init__(
        self, path: Path, fps: Fraction, size: tuple[int, int], rate: int, channels: int, *, crf: int = 18
    ) -> None:
        """`size` is (width, height), both even; `rate` in Hz; `channels` 1 or 2, or 0: no sound track.

        Raises OSError if it cannot write.
        """
        cpu.level()
        self.path, self.fps, self.size, self.rate, self.channels = path, fps, size, rate, channels
        self.part = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
        self.pictures = self.samples = 0
        with open(self.part, "wb"):  # fails here, in one line, and not in the middle of FFmpeg
            pass
        try:
            self._open(crf)
        except BaseException:
            self._discard()
            raise

    def _open(self, crf: int) -> None:
        self._container = av.open(
            "file:" + os.path.abspath(self.part), "w", format="mp4", options={"movflags": "+faststart"}
        )
        x264 = {"preset": "veryfast", "crf": str(crf), "bf": "0", "x264-params": cpu.x264_params()}
        video = self._container.add_stream("libx264", rate=self.fps, options=x264)
        video.width, video.height, video.pix_fmt = *self.size, "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.time_base = 1 / self.fps
        tag_bt709(video.codec_context)
        self._video, self._audio = video, cast(av.AudioStream | None, None)
        if self.channels:
            layout = "mono" if self.channels == 1 else "stereo"
            audio = self._container.add_stream("aac", rate=sound_rate(self.rate), layout=layout)
            audio.codec_context.bit_rate = BIT_RATE * self.channels
            audio.codec_context.thread_count = 1
            self._audio, self._layout = audio, layout
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=audio.rate, frame_size=_BLOCK)
        self._scaler = VideoReformatter()
        self._sent = 0  # samples at the encoder's rate

    def picture(self, picture: np.ndarray) -> None:
        """The next picture: uint8 `H W 3` RGB, scaled (Lanczos) to the size of the video."""
        source = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        # One reformatter for all pictures: its tables are made once.
        frame = self._scaler.reformat(
            source,
            *self.size,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation="LANCZOS",
        )
        frame.pts, frame.time_base, frame.pict_type = self.pictures, 1 / self.fps, PictureType.NONE
        self._container.mux(self._video.encode(frame))
        self.pictures += 1

    def sound(self, samples: np.ndarray) -> None:
        """The next samples: float32 (`channels`, `N`) in [-1, 1] at `rate`."""
        if not samples.shape[1] or self._audio is None:
            return
        whole = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), np.float32)
        block = av.AudioFrame.from_ndarray(whole, format="fltp", layout=self._layout)
        block.sample_rate, block.pts, block.time_base = self.rate, self.samples, Fraction(1, self.rate)
        self.samples += samples.shape[1]
        self._encode(self._resampler.resample(block))

    def _encode(self, blocks: list[av.AudioFrame]) -> None:
        assert self._audio is not None
        for block in blocks:
            block.pts, block.time_base = self._sent, Fraction(1, self._audio.rate)
            self._sent += block.samples
            self._container.mux(self._audio.encode(block))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._audio is not None:
                    self._encode(self._resampler.resample(None) if self.samples else [])
                    self._container.mux(self._audio.encode(None))
                self._container.mux(self._video.encode(None))
                self._container.close()
                os.replace(self.part, self.path)
        finally:
            self._discard()

    def _discard(self) -> None:
        container = getattr(self, "_container", None)
        if container is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                container.close()
        self.part.unlink(missing_ok=True)


def sound_rate(rate: int) -> int:
    """The rate at which AAC can hold sound of `rate` Hz: itself where AAC knows it."""
    return rate if rate in AAC_RATES else 48000
