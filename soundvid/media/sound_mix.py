"""From the channels of a decoded block of sound to one."""

import av
import numpy as np

from soundvid.media.errors import MediaError

# ITU-R BS.775: what a channel counts for in a mix; the low-frequency channel counts for nothing.
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "LFE": 0.0, "LFE2": 0.0}
_OTHER_WEIGHT = 0.7071067811865476
_PLANES = 8  # of more, PyAV 18 reads memory that is none of its own


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """A block of sound as float32 (`channels`, `N`) in [-1, 1]."""
    if frame.format.is_planar and len(frame.layout.channels) > _PLANES:
        packed = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate).resample(frame)
        return packed[0].to_ndarray().reshape(-1, len(frame.layout.channels)).T
    array = frame.to_ndarray()
    channels = array if frame.format.is_planar else array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype == np.uint8:
        return (channels.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i":
        return (channels / float(1 << (8 * array.dtype.itemsize - 1))).astype(np.float32)
    return channels.astype(np.float32)


def mix_weights(names: list[str], channel: int | None = None) -> list[float]:
    """What each of the channels with these names counts for in the mono mix; `channel` (0-based) takes one alone.

    Two channels count alike. Of ambisonics W, the sound from all directions, is the mix, and of a stereo pair with it
    each half as much; the other components are differences between directions, which cancel in a sum. Raises MediaError
    (`no_channel`) where `channel` is not there.
    """
    if channel is not None:
        if channel >= len(names):
            asked = f"its sound has {len(names)} channel(s), sound.channel asks for {channel + 1}"
            raise MediaError("no_channel", asked)
        return [float(i == channel) for i in range(len(names))]
    if any(n.startswith("AMBI") for n in names):
        return [1.0 if n == "AMBI0" else 0.0 if n.startswith("AMBI") else 0.5 for n in names]
    if len(names) <= 2:
        return [1.0] * len(names)
    return [_WEIGHTS.get(n, _OTHER_WEIGHT) for n in names]


def mono(frame: av.AudioFrame) -> np.ndarray:
    """A block of sound as float32 mono in [-1, 1], mixed by `mix_weights`."""
    return mixed(channels_of(frame), mix_weights([c.name for c in frame.layout.channels]))


def left(frame: av.AudioFrame) -> np.ndarray:
    """The left of a block in stereo; of more than two channels the mean of the left ones and the middle; of ambisonics
    a cardioid that points left."""
    return _side(frame, "L", "R", 0)


def right(frame: av.AudioFrame) -> np.ndarray:
    """The right of a block in stereo, see `left`."""
    return _side(frame, "R", "L", 1)


def _side(frame: av.AudioFrame, this: str, other: str, place: int) -> np.ndarray:
    channels, names = channels_of(frame), [channel.name for channel in frame.layout.channels]
    if len(names) <= 2:
        return channels[min(place, len(names) - 1)]
    if names[:2] == ["AMBI0", "AMBI1"]:
        return (channels[0] + (1 - 2 * place) * channels[1]) / 2
    if "FL" not in names:  # the file names no places: the usual order, then
        names = ["FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR", *names[8:]][: len(names)]
    return mixed(channels, [0.0 if n.endswith(other) else _WEIGHTS.get(n, _OTHER_WEIGHT) for n in names])


def mixed(channels: np.ndarray, weights: list[float]) -> np.ndarray:
    """The weighted mean; the weights sum to one, so it is never louder than the loudest channel and cannot clip."""
    if len(channels) == 1:
        return channels[0]
    total = sum(weights) or 1.0
    result = np.zeros(channels.shape[1], np.float32)
    for weight, channel in zip(weights, channels, strict=True):
        if weight:
            result += channel * np.float32(weight / total)
    return result


def loudest(channels: np.ndarray, names: list[str]) -> np.ndarray | None:
    """Each sample's largest absolute value over the channels, low-frequency ones left out; None: there is but one."""
    if len(channels) == 1:
        return None
    heard = [i for i, name in enumerate(names) if not name.startswith("LFE")]
    chosen = channels if len(heard) == len(names) else channels[heard]
    result: np.ndarray = np.abs(chosen).max(axis=0, initial=0)
    return result
