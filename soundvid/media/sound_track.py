"""Which of a source's sound tracks is used: a number, a language, or the first that sounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import av
import numpy as np

from soundvid.media.container import no_heartbeat, open_media, part_head
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundInfo, Source
from soundvid.media.sound_decoder import decode_sound
from soundvid.media.sound_mix import channels_of

SOUNDS = 0.001  # of full scale (-60 dBFS): a track with a sample above it sounds
_ASIDE = ("comment", "hearing_impaired", "visual_impaired", "descriptions", "dub", "karaoke")
# ISO 639-1 and the bibliographic codes of ISO 639-2, as its terminological codes.
_LANGUAGES = dict(
    pair.split("=")
    for pair in (
        "ar=ara bg=bul bn=ben ca=cat cs=ces cze=ces cy=cym wel=cym da=dan de=deu ger=deu el=ell gre=ell en=eng es=spa "
        "et=est eu=eus baq=eus fa=fas per=fas fi=fin fr=fra fre=fra he=heb hi=hin hr=hrv hu=hun hy=hye arm=hye id=ind "
        "is=isl ice=isl it=ita ja=jpn ka=kat geo=kat ko=kor lt=lit lv=lav mk=mkd mac=mkd ms=msa may=msa nl=nld dut=nld "
        "nb=nob no=nor pl=pol pt=por ro=ron rum=ron ru=rus sk=slk slo=slk sl=slv sq=sqi alb=sqi sr=srp sv=swe ta=tam "
        "te=tel th=tha tr=tur uk=ukr ur=urd vi=vie zh=zho chi=zho"
    ).split()
)


def _language(name: str | None) -> str:
    """`en`, `en-GB` and `eng` are one language."""
    plain = (name or "und").lower().replace("_", "-").partition("-")[0]
    return _LANGUAGES.get(plain, plain)


def choose_track(
    source: Source, track: int | str, heartbeat: Callable[[], None] = no_heartbeat
) -> tuple[Source, dict[str, Any]]:
    """The source with the sound track that is asked for, and what the ledger says of it.

    `track` is a number (1: the first), a language (`eng`, `en`), or `auto`: the first that sounds, in the order of the
    file, the default track before others, and commentary and versions for the impaired last. A track sounds if any
    sample of it rises above -60 dBFS; where none does, the first one stands. Raises MediaError (`no_track`).
    """
    if source.sound is None or (source.sound.streams == 1 and track == "auto"):
        return source, {}
    with open_media(source.path) as container:
        tracks = list(container.streams.audio)
        usable = [s for s in tracks if s.codec_context is not None and s.codec_context.sample_rate]
        languages = {s.index: _language(s.language) for s in tracks}
        if isinstance(track, int):
            if track > len(tracks):
                raise MediaError("no_track", f"has {len(tracks)} sound track(s), sound.track asks for number {track}")
            order = [s for s in usable if s is tracks[track - 1]]
            if not order:
                raise MediaError("no_track", f"the codec of its sound track {track} is unknown to this FFmpeg")
        elif track == "auto":
            # Transport streams name no default, and hold tracks of other programmes: there FFmpeg's choice comes first.
            first = source.sound.index if container.format.name == "mpegts" else -1
            order = sorted(usable, key=lambda s: (s.index != first, _is_aside(s), not _is_default(s), s.index))
        else:
            order = [s for s in usable if languages[s.index] == _language(track)]
            if not order:
                there = ", ".join(s.language or "no language" for s in tracks)
                raise MediaError("no_track", f"no sound track of it is in '{track}' (there are: {there}; sound.track)")
        infos = [source.sound if s.index == source.sound.index else _info(s, len(tracks)) for s in order]
        numbers = {s.index: n for n, s in enumerate(tracks, 1)}
    chosen = infos[0]
    if len(infos) > 1 and part_head(source.path) is None:
        chosen = next((info for info in infos if _sounds(source, info, heartbeat)), chosen)
    facts = {"sound_track": numbers[chosen.index], "sound_language": languages[chosen.index]}
    return replace(source, sound=chosen), facts


def _info(stream: av.AudioStream, streams: int) -> SoundInfo:
    context = stream.codec_context
    return SoundInfo(stream.index, context.codec.canonical_name, context.sample_rate, context.channels, streams)


def _is_default(stream: av.AudioStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.default)


def _is_aside(stream: av.AudioStream) -> bool:
    return any(stream.disposition & av.stream.Disposition[name] for name in _ASIDE)


def _sounds(source: Source, info: SoundInfo, heartbeat: Callable[[], None]) -> bool:
    """Whether any sample of any channel of a track is heard; it is decoded until one is."""
    with open_media(source.path) as container:
        stream = container.streams[info.index]
        for decoded in decode_sound(container.demux(stream), stream, [], heartbeat):
            if decoded.damaged_from is None and np.abs(channels_of(decoded.frame)).max(initial=0) > SOUNDS:
                return True
    return False
