"""When things really happen in drawn sources: soundvid draws and voices them, so it knows each event's frame."""

from collections.abc import Callable, Mapping, Sequence

from soundvid.demo.scene import Event
from soundvid.metrics.tally import ClipName


def drawn_truth(events: Mapping[str, Sequence[Event]]) -> Callable[[ClipName], list[int] | None]:
    """What `evaluate(truth=...)` asks: a clip -> numbers of its frames that show an event.

    `events` are those of whole sources by file name without its ending (`soundvid.demo.events`), as keys of clips
    begin with it. None for clips of other sources.
    """

    def of(clip: ClipName) -> list[int] | None:
        known = events.get(clip.key.rsplit("-", 2)[0])
        if known is None:
            return None
        return [e.frame - clip.start for e in known if clip.start <= e.frame < clip.start + clip.frames]

    return of
