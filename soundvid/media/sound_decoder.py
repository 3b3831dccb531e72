"""Decoding a sound track packet by packet, and telling which of its samples rest on damaged data.

Damage is what the decoder or the demuxer reports: an error, a checksum that does not hold (FLAC, AC-3, E-AC-3), a
packet marked as corrupt. MP3 has no checksums as a rule, so a second decoder checks that each packet's Huffman codes
end where its header says. Codecs without any redundancy (PCM, ADPCM, Opus, MP2, WMA) report nothing: see
`full_scale_leaps`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.logging
import numpy as np

from soundvid.media.container import LIBRARY_ERRORS, decode_packets, no_heartbeat, reason_of

# A decoder's lossy state (overlap, bit reservoir, prediction) carries damage on into the sound that follows.
CARRY = Fraction(1, 20)  # seconds
LEAP = 1.0  # half of the full range, from one sample to the next
LEAP_LEVEL = 0.94  # of full scale
LEAP_RATIO = 1.8  # times the median peak of what surrounds it (5 dB)
LEAP_BLOCK, LEAP_SURROUNDING, LEAP_APART = 0.005, 0.25, 0.03  # seconds; leaps closer together count once


@dataclass(frozen=True)
class DecodedSound:
    """A block of sound. `damaged_from`: where the damage begins that it rests on, in seconds on the file's axis; None:
    it is whole."""

    frame: av.AudioFrame
    damaged_from: Fraction | None


def decode_sound(
    packets: Iterator[Any],
    stream: av.stream.Stream,
    damage: list[tuple[Fraction | None, str]],
    heartbeat: Callable[[], None] = no_heartbeat,
    reopen: Callable[[], av.container.InputContainer] | None = None,
) -> Iterator[DecodedSound]:
    """Decode `packets` of `stream`, stepping over broken ones; each is noted in `damage` with its time and reason.

    `reopen` opens the file once more; it is called at most once, to find out how an MP3 encoder pads its packets.
    """
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
        context.options = {**context.options, "err_detect": "crccheck"}
    check = _Mp3Check(stream.index, reopen) if context.codec.canonical_name == "mp3" else None
    began: Fraction | None = None  # of the latest damage
    carried: Fraction | None = None  # to where it reaches
    pending = False  # the next block rests on damage, whatever its time
    start: Fraction | None = None

    for found in decode_packets(packets, stream, heartbeat):
        packet, frames, reasons = found.packet, found.frames, list(found.reasons)
        if packet is None:
            damage.append((None, reasons[0]))
            return
        if start is None and packet.pts is not None:
            start = found.time
        if check is not None and packet.size and not reasons:
            reasons += check(packet)
        when = found.time if reasons else None
        if any("backstep" in r for r in reasons) and when is not None and start is not None and when < start + CARRY:
            reasons = []  # where reading begins, what the first packets refer to was not read: nothing is broken
        if reasons:
            damage.append((when, reasons[0]))
            pending = when is None
            pending |= not frames  # what is lost is part of the damage, too
            if when is not None:
                began = when if carried is None or carried < when else began
                carried = when + CARRY
        if not (reasons or pending or carried is not None):
            yield from (DecodedSound(frame, None) for frame in frames)
            frames = []
        for frame in frames:
            time = None if frame.pts is None else frame.pts * frame.time_base
            broken = bool(reasons) or pending or (carried is not None and time is not None and time < carried)
            pending = False
            yield DecodedSound(frame, (began if began is not None else time) if broken else None)


class _Mp3Check:
    """Whether a packet's Huffman codes end where its header says, by a decoder whose sound is not used.

    Some encoders pad packets there (those that descend from ISO's dist10, such as Shine). They do it all the time, so
    where most of a track's first packets are reported, the reports mean nothing.
    """

    SAMPLE = 200  # packets that are looked at
    USUAL = 0.5  # share of them from which on reports are the encoder's habit

    def __init__(self, index: int, reopen: Callable[[], av.container.InputContainer] | None) -> None:
        self.index, self.reopen = index, reopen
        self.context = self._decoder()
        self.pads: bool | None = None  # None: not looked at yet

    @staticmethod
    def _decoder() -> av.AudioCodecContext:
        context: Any = av.CodecContext.create("mp3float", "r")
        context.thread_count = 1
        context.options = {"err_detect": "buffer"}
        return context

    @staticmethod
    def _complaints(context: av.AudioCodecContext, packet: Any) -> list[str]:
        with av.logging.Capture() as logs:
            try:
                context.decode(packet)
            except LIBRARY_ERRORS as error:
                return [reason_of(error)]
        return [" ".join(text.split()) for level, _, text in logs if level <= av.logging.ERROR]

    def __call__(self, packet: Any) -> list[str]:
        if self.pads:
            return []
        found = self._complaints(self.context, packet)
        if found and self.pads is None:
            self.pads = self._looked_at()
        return [] if self.pads else [f"its codes do not end where its header says ({f})" for f in found]

    def _looked_at(self) -> bool:
        if self.reopen is None:
            return False
        context, seen, odd = self._decoder(), 0, 0
        try:
            with self.reopen() as container:
                for packet in container.demux(container.streams[self.index]):
                    if packet.size:
                        seen, odd = seen + 1, odd + bool(self._complaints(context, packet))
                    if seen >= self.SAMPLE:
                        break
        except LIBRARY_ERRORS:
            pass  # what was read until here is enough
        return odd > self.USUAL * max(seen, 1)


def full_scale_leaps(samples: np.ndarray, rate: int) -> int:
    """Places where sound (float32 `N` at `rate` Hz) leaps to full scale out of a quieter surrounding, or by half of the
    full range from one sample to the next.

    Noise from damaged data does so, and so do claps that are recorded too loud: this is measured and, unless the recipe
    asks for it, not judged.
    """
    found = np.flatnonzero(np.abs(np.diff(samples)) >= LEAP)
    size = max(1, round(LEAP_BLOCK * rate))
    peaks = np.abs(samples[: len(samples) // size * size]).reshape(-1, size).max(axis=1)
    reach = round(LEAP_SURROUNDING / LEAP_BLOCK)
    for block in np.flatnonzero(peaks >= LEAP_LEVEL):
        around = float(np.median(peaks[max(0, block - reach) : block + reach + 1]))
        if around * LEAP_RATIO <= peaks[block]:
            found = np.append(found, block * size)
    found = np.sort(found)
    return int(len(found) > 0) + int(np.count_nonzero(np.diff(found) > LEAP_APART * rate))
