"""A stored clip's pictures, encoded as a build does it."""

from collections.abc import Sequence
from fractions import Fraction

import av

from soundvid.media.clip_encoder import ClipEncoder


def encode_clip(frames: Sequence[av.VideoFrame], fps: Fraction, *, crf: int, preset: str, keyframe_every: int) -> bytes:
    """The mp4 file of one clip whose first picture is that of grid frame 0."""
    return ClipEncoder(fps, crf=crf, preset=preset, keyframe_every=keyframe_every).encode(0, frames)
