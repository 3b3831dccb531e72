"""Whether motion follows sound, measured without any trained network.

The sound's onsets and the video's motion energy are two curves at the frame rate; their normalised
cross-correlation says at which lag they fit best, and how well. A still video or a sound without onsets has no
correlation: NaN, never 0.
"""

from collections.abc import Sequence

import numpy as np
import scipy  # its parts load when they are first used: half a second that most processes need not spend

from soundvid.metrics.motion import is_still

SEARCH = 15  # frames, both ways, in which the lag is looked for: 0.5 s at 30 fps
NEAR = 5  # frames, both ways, in which a correlation counts as synchrony: 167 ms at 30 fps
ALIGN = 3  # frames, both ways, within which AV-Align matches peaks
BLOCKS = 8  # a side: the picture's parts in which change is followed over time
_GAIN = 10.0  # of the magnitudes under the logarithm: log1p(10 |S|); 16-bit silence stays near 0
_NO_ONSET = 1e-3  # an onset envelope that never rises above this holds no onset

DEFINITIONS = {
    "lag": f"frames (+: the motion is late) at which the clips' mean cross-correlation of motion energy and sound "
    f"onsets peaks, searched within +-{SEARCH} frames; onsets: half-wave rectified flux of log1p(10 |S|), "
    "mean over bins",
    "lag_difference": "lag(generated) - lag(real), each from the clips' mean cross-correlation",
    "lag_error": f"mean over clips of |lag(generated) - lag(real)|, each clip's own peak within +-{SEARCH} frames",
    "peak_correlation": f"highest Pearson correlation of motion energy and sound onsets within +-{NEAR} frames; mean "
    "over clips that move",
    "audio_sensitivity": f"peak correlation of the generated video with its own sound minus the mean over other "
    f"clips' sounds, within +-{NEAR} frames; a video that does not move counts as 0",
    "av_align": f"intersection over union of onset and motion peaks, matched one to one within +-{ALIGN} frames; "
    "motion energy takes the place of optical flow",
    "spacetime": f"Pearson correlation of the generated with the real clip's change |x[t] - x[t-1]| over {BLOCKS} x "
    f"{BLOCKS} blocks of the picture and all frames, each block's mean over time taken away first: does each part move "
    "when the real one does; 1 is the real clip itself; a video that does not move counts as 0; mean over clips "
    "that move",
    "lag_to_truth": f"frames at which the clips' mean cross-correlation of motion energy and the drawn events peaks, "
    f"within +-{SEARCH} frames, minus the same for the real video",
}


def change_blocks(video: np.ndarray) -> np.ndarray:
    """Mean absolute change of each part of the picture into each frame but the first: `T H W 3` -> float32 `T-1 8 8`.

    uint8, or float in [0, 1]; the range of the result is 0 to 1. Sides that 8 does not divide lose their last pixels.
    """
    scale = 255 if video.dtype == np.uint8 else 1
    height, width = (max(1, side // BLOCKS) for side in video.shape[1:3])
    rows, columns = min(BLOCKS, video.shape[1]), min(BLOCKS, video.shape[2])
    found = np.empty((max(0, len(video) - 1), rows, columns), np.float32)
    before = video[0].astype(np.float32)
    for i in range(len(found)):
        now = video[i + 1].astype(np.float32)
        change = np.abs(now - before).mean(axis=2)[: rows * height, : columns * width]
        found[i] = change.reshape(rows, height, columns, width).mean((1, 3))
        before = now
    return found / scale


def spacetime(real: np.ndarray, generated: np.ndarray) -> float:
    """Correlation of two `change_blocks`, as `DEFINITIONS["spacetime"]` says; NaN where the real clip is still."""
    a, b = (m.astype(np.float64) - m.mean(0, dtype=np.float64) for m in (real, generated))
    if not len(real) or is_still(real.mean((1, 2))):
        return float("nan")
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-12 else 0.0


def onset_envelope(spectrogram: np.ndarray) -> np.ndarray:
    """Onset strength of each row but the first: raw magnitudes (`T`, bins) -> `T - 1`; entry i belongs to frame i + 1.

    Half-wave rectified flux of the log-compressed magnitudes, mean over bins (Bello et al. 2005, section III-A).
    """
    if spectrogram.ndim != 2:
        raise ValueError(f"a spectrogram is T x bins, not {spectrogram.shape}")
    level = np.log1p(_GAIN * np.abs(spectrogram.astype(np.float64)))
    return np.maximum(np.diff(level, axis=0), 0).mean(axis=1)


def event_envelope(frames: Sequence[int], count: int) -> np.ndarray:
    """Known events as the onset envelope of a clip of `count` frames: 1 where one happens; others are left out."""
    envelope = np.zeros(count)
    envelope[[f for f in frames if 0 <= f < count]] = 1
    return envelope[1:]


def has_onsets(envelope: np.ndarray) -> bool:
    """Whether anything begins in a sound: silence and steady noise have no onset, and no lag."""
    return bool(len(envelope)) and float(envelope.max()) >= _NO_ONSET


def correlogram(motion: np.ndarray, onsets: np.ndarray, search: int = SEARCH) -> np.ndarray:
    """Pearson correlation at each lag -search..search (`2 search + 1`); NaN throughout where a curve says nothing.

    At lag L motion[t + L] is laid on onsets[t], over the frames they share: positive means the motion is late.
    """
    if motion.shape != onsets.shape or motion.ndim != 1:
        raise ValueError(f"motion and onsets are curves of one length, not {motion.shape} and {onsets.shape}")
    count = len(motion)
    curve = np.full(2 * search + 1, np.nan)
    if is_still(motion) or not has_onsets(onsets):
        return curve
    for lag in range(max(-search, 2 - count), min(search, count - 2) + 1):
        a = motion[max(0, lag) : count + min(0, lag)]
        b = onsets[max(0, -lag) : count - max(0, lag)]
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a @ a) * (b @ b))
        if size > 1e-12:
            curve[lag + search] = a @ b / size
    return curve


def peak_lag(curve: np.ndarray, *, subframe: bool = False) -> float:
    """The lag in frames at which a correlogram is highest; NaN where it has no value.

    `subframe` puts a parabola through the peak and its neighbours: a fraction of a frame, for curves that are smooth.
    """
    if np.isnan(curve).all():
        return float("nan")
    top = int(np.nanargmax(curve))
    lag = float(top - len(curve) // 2)
    if subframe and 0 < top < len(curve) - 1:
        left, middle, right = curve[top - 1 : top + 2]
        bend = left - 2 * middle + right
        if bend < 0:  # False for NaN
            lag += 0.5 * (left - right) / bend
    return lag


def peak_lags(curves: np.ndarray) -> np.ndarray:
    """`peak_lag` of each of the correlograms `N K`: `N`."""
    tops = np.where(np.isnan(curves), -np.inf, curves).argmax(axis=1)
    return np.where(np.isnan(curves).all(axis=1), np.nan, tops - curves.shape[1] // 2)


def peak_correlation(curve: np.ndarray, near: int = NEAR) -> float:
    """The highest correlation within `near` frames of lag 0; NaN where there is none."""
    middle = len(curve) // 2
    close = curve[max(0, middle - near) : middle + near + 1]
    return float("nan") if np.isnan(close).all() else float(np.nanmax(close))


def peaks(curve: np.ndarray) -> np.ndarray:
    """Local maxima that stand out by at least 0.3 of the curve's range."""
    span = float(np.ptp(curve)) if len(curve) else 0.0
    if span <= 0:
        return np.zeros(0, dtype=int)
    padded = np.concatenate([[curve.min()], curve, [curve.min()]])  # a peak may be at either end
    return scipy.signal.find_peaks(padded, prominence=0.3 * span)[0] - 1


def av_align(motion: np.ndarray, onsets: np.ndarray, window: int = ALIGN) -> float:
    """Intersection over union of onset peaks and motion peaks that lie within `window` frames of each other.

    Yariv et al. 2024, "Diverse and aligned audio-to-video generation", section 4.1, with one-to-one matches. NaN where
    the sound has no onset; 0 where the video does not move though the sound has onsets.
    """
    if not has_onsets(onsets):
        return float("nan")
    onset_peaks = peaks(onsets)
    motion_peaks = np.zeros(0, dtype=int) if is_still(motion) else peaks(motion)
    if not len(onset_peaks):
        return float("nan")
    matched, place = 0, 0
    for onset in onset_peaks:  # both sorted: the earliest free motion peak in reach is the best choice
        while place < len(motion_peaks) and motion_peaks[place] < onset - window:
            place += 1
        if place < len(motion_peaks) and motion_peaks[place] <= onset + window:
            matched, place = matched + 1, place + 1
    return matched / (len(onset_peaks) + len(motion_peaks) - matched)
