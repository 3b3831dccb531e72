"""A picture file and a sound file into one, packets copied as they are: sites often serve the two apart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from soundvid.media.errors import MediaError
from soundvid.media.probe import open_media


def join(pictures: Path, sound: Path, target: Path) -> None:
    """Write `target` (Matroska, which holds every codec) with the first picture stream and the first sound stream.

    Nothing is decoded; time stamps stay as they are, so both keep their place on the clock. Raises MediaError
    (`not_media`, `no_picture`, `no_sound`) where one of them is not what it should be.
    """
    with open_media(pictures) as left, open_media(sound) as right:
        if not left.streams.video:
            raise MediaError("no_picture", "the file that should hold the pictures holds none")
        if not right.streams.audio:
            raise MediaError("no_sound", "the file that should hold the sound holds none")
        try:
            with av.open(str(target), "w", format="matroska", options={"fflags": "+bitexact"}) as out:
                video = out.add_stream_from_template(left.streams.video[0])
                audio = out.add_stream_from_template(right.streams.audio[0])
                streams: dict[Any, Iterator[Any]] = {
                    video: iter(left.demux(left.streams.video[0])),
                    audio: iter(right.demux(right.streams.audio[0])),
                }
                waiting: dict[Any, Any] = {
                    s: next((p for p in feed if p.dts is not None), None) for s, feed in streams.items()
                }
                while any(p is not None for p in waiting.values()):
                    # The earlier packet goes first, so that the file reads well from one end to the other.
                    stream = min(
                        (s for s, p in waiting.items() if p is not None),
                        key=lambda s: waiting[s].dts * waiting[s].time_base,
                    )
                    packet = waiting[stream]
                    packet.stream = stream
                    out.mux(packet)
                    waiting[stream] = next((p for p in streams[stream] if p.dts is not None), None)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError("not_media", f"pictures and sound cannot be put into one file ({error})") from error
