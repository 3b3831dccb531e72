"""The sound that a system generates from: read in chunks, in step with the pictures that are made for it."""

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.clock import half_up, sample_at
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundTrack, probe_sound
from soundvid.media.sound_mix import left, mono, right
from soundvid.media.sound_reader import SoundReader

CHUNK = 30  # rows that are read, and pictures that are made, at a time
MOST_PADDING = 4096  # samples that an encoder may have added to fill its last block


def open_sound(path: Path) -> SoundTrack:
    """The sound of a file, or one line that says what is wrong with it."""
    try:
        return probe_sound(path)
    except MediaError as error:
        hint = "; give --sound a sound file, or a video with sound" if error.code in ("no_sound", "not_media") else ""
        raise SoundvidError(f"{path}: {error.message}{hint}") from error
    except OSError as error:
        raise SoundvidError(f"{path}: the sound cannot be read ({error.strerror or error})") from error


def sound_peak(path: Path, rate: int = 16000) -> float:
    """The largest sample of a file's sound, mixed to mono at `rate` Hz: 0 to 1. Raises SoundvidError."""
    reader, peak, seconds = SoundReader(open_sound(path), rate), 0.0, 10
    try:
        start = 0
        while reader.end is None or start < reader.end:
            samples = reader.read(start, start + seconds * rate).samples
            peak, start = max(peak, float(np.abs(samples).max(initial=0))), start + seconds * rate
    except MediaError as error:
        raise SoundvidError(f"{path}: {error.message}") from error
    finally:
        reader.close()
    return peak


class SoundInput:
    """A sound file read twice in parallel: as a model takes it (mono, at its rate), and as it goes into the video."""

    def __init__(self, track: SoundTrack, spectrogram: Spectrogram) -> None:
        self.track, self.spectrogram = track, spectrogram
        self.rate = track.sound.rate
        self.analysed = SoundReader(track, spectrogram.rate)
        mixes = [mono] if track.sound.channels == 1 else [left, right]
        self.channels = [SoundReader(track, self.rate, mix=mix) for mix in mixes]
        self._sent = 0  # samples of the video's sound

    def rows(self) -> Iterator[np.ndarray]:
        """Raw magnitudes of frame after frame, a chunk at a time: ceil(seconds * fps) rows in all."""
        first, rate, fps = 0, self.spectrogram.rate, self.spectrogram.fps
        while True:
            start, stop = (sample_at(k, rate, fps) for k in (first, first + CHUNK))
            # A row may look one sample beyond its frame's share where rate / fps is no whole number.
            samples = self.analysed.read(start, stop + 1).samples
            end = self.end_of(self.analysed)
            count = CHUNK if end is None else min(CHUNK, ceil(end * fps / rate) - first)
            if count <= 0:
                return
            yield self.spectrogram(samples, first, count)
            first += count

    def sound_until(self, pictures: int | None) -> np.ndarray:
        """Sound of the first `pictures` pictures that was not returned before, (channels, N); None: all the rest."""
        if pictures is None:
            pictures = ceil((self.end_of(self.analysed) or 0) * self.spectrogram.fps / self.spectrogram.rate) + 1
        start, stop = self._sent, sample_at(pictures, self.rate, self.spectrogram.fps)
        blocks = [channel.read(start, max(start, stop)).samples for channel in self.channels]
        end = self.end_of(self.channels[0])
        self._sent = max(start, stop if end is None else min(stop, end))
        return np.stack(blocks)[:, : self._sent - start]

    def end_of(self, sound: SoundReader) -> int | None:
        """Samples there are, once that is known; what a last block decodes to beyond the track's length is left out."""
        end, stated = sound.end, self.track.stated
        if end is None or stated is None:
            return end
        length = half_up(stated * sound.rate)
        return length if 0 < end - length <= MOST_PADDING * sound.rate / self.rate else end

    def close(self) -> None:
        for reader in (self.analysed, *self.channels):
            reader.close()
