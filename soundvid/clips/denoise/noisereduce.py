"""T. Sainburg's library noisereduce, for those whose results rest on it.

The numbers are those of `noisereduce.reduce_noise` for the whole track with this `chunk_size` and `padding`. The
library would hold the whole track in memory; here it gets one of its own chunks at a time.
"""

from math import ceil, log2
from typing import Any

import numpy as np

from soundvid.clips.denoise.base import DenoiseMethod, not_installed
from soundvid.recipe.model import Denoise

CHUNK = 600_000  # samples, the library's default `chunk_size`
PADDING = 30_000  # samples, its default `padding`: the least


class NoiseReduce(DenoiseMethod):
    """noisereduce's stationary reduction with a noise profile, its non-stationary one without.

    `window_seconds` becomes `n_fft` (a power of two; hops are a quarter of it), `reduction` `prop_decrease`,
    `smooth_hz` and `smooth_seconds` the mask's smoothing (none where less than one cell), `floor_seconds`
    `time_constant_s`. `threshold` becomes `n_std_thresh_stationary` (standard deviations above the noise), without a
    profile `thresh_n_mult_nonstationary` (by how many times the floor a sound must exceed it). Raises RecipeError where
    the library is not installed.
    """

    name = "noisereduce"

    def __init__(self, rate: int, options: Denoise, noise: np.ndarray | None) -> None:
        super().__init__(rate, options, noise)
        try:
            from noisereduce import reduce_noise
        except ImportError as error:
            raise not_installed("noisereduce") from error
        self.reduce_noise = reduce_noise
        window = 1 << max(4, round(log2(options.window_seconds * rate)))
        hop = window // 4
        self.piece = CHUNK
        reach = options.smooth_seconds + (0 if noise is not None else options.floor_seconds)
        self.margin = max(PADDING, ceil(reach * rate) + 2 * window)
        smooth_hz = options.smooth_hz if options.smooth_hz >= 2 * rate / window else None
        smooth_ms = 1000 * options.smooth_seconds if options.smooth_seconds >= hop / rate else None
        self.arguments: dict[str, Any] = {
            "stationary": noise is not None,
            "prop_decrease": options.reduction,
            "time_constant_s": options.floor_seconds,
            "freq_mask_smooth_hz": smooth_hz,
            "time_mask_smooth_ms": smooth_ms,
            "n_std_thresh_stationary": options.threshold,
            "thresh_n_mult_nonstationary": options.threshold,
            "n_fft": window,
            "clip_noise_stationary": False,
        }
        if noise is not None:
            self.arguments["y_noise"] = noise if len(noise) >= window else np.resize(noise, window)

    def apply(self, samples: np.ndarray, track: tuple[int, int]) -> np.ndarray:
        own = np.zeros(len(samples), np.float64)  # beyond the track there is silence, as in the library
        low, high = max(track[0], 0), max(track[1], 0)
        own[low:high] = samples[low:high]
        if not own.any():
            return own.astype(np.float32)  # the library's non-stationary reduction would divide zero by zero
        # A track that is no longer than a chunk is not filled up to one by the library.
        stop = high + self.margin if track[1] - track[0] <= self.piece else len(own)
        # The margins are the padding that the library would add to this chunk.
        own[:stop] = self.reduce_noise(own[:stop], self.rate, chunk_size=stop, padding=0, **self.arguments)
        return own.astype(np.float32)
