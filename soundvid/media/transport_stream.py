"""Counters of a transport stream's packets, which tell a loss from a recording that was put behind another one.

ISO/IEC 13818-1, 2.4.3: each packet names its stream (PID) and counts, modulo 16, those of its stream that carry data.
Where packets were lost, mostly the counter of one stream leaps; where another recording begins, those of all do.
"""

from pathlib import Path

_SIZES = (188, 192, 204)  # plain; with a time stamp before each packet; with a checksum behind it
_SYNC = 0x47
_PACKETS = 5  # that stand one behind the other where a packet begins
_BEFORE, _AFTER = 1 << 20, 1 << 18  # bytes that are read around a place: tables and sound come several times a second


def recording_ends(path: Path, pid: int, begin: int, end: int) -> bool:
    """Whether between bytes `begin` and `end` of a file one recording ends and another begins.

    The counter of a stream other than `pid` leaps there (the first packet of each stream behind `end` still counts),
    and the last packet of `pid` is stuffed, as the end of a picture is: it was not cut off. False where the file cannot
    be read or is no transport stream.
    """
    start = max(0, begin - _BEFORE)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start + _AFTER)
    except OSError:
        return False
    begin, end = begin - start, end - start
    counts: dict[int, int] = {}
    done = {pid, 0x1FFF}  # and the packets that hold nothing
    stuffed = False
    place, size = _packet_from(data, 0)
    while size:
        stream = (data[place + 1] & 0x1F) << 8 | data[place + 2]
        flags, count = data[place + 3], data[place + 3] & 15
        if stream == pid and place < end:
            stuffed = bool(flags & 0x20) and _is_stuffed(data[place + 4 : place + 6])
        if stream not in done and flags & 0x10:  # it carries data
            before = counts.get(stream, (count - 1) % 16)
            # A packet may come twice.
            if place >= begin and count not in (before, (before + 1) % 16):
                return stuffed
            counts[stream] = count
            if place >= end:
                done.add(stream)
        place += size
        if place + 4 > len(data):
            return False
        if data[place] != _SYNC:
            place, size = _packet_from(data, place)
    return False


def _is_stuffed(head: bytes) -> bool:
    """Whether an adaptation field, of which these are length and flags, is longer than what it holds."""
    if len(head) < 2 or head[0] == 0:
        return len(head) == 2
    clocks, splice, others = (head[1] & 0x18).bit_count(), head[1] >> 2 & 1, head[1] & 3
    return not others and head[0] > 1 + 6 * clocks + splice


def _packet_from(data: bytes, place: int) -> tuple[int, int]:
    """Where the next packet begins, and how far packets lie apart; (0, 0): there are none."""
    while (place := data.find(_SYNC, place)) >= 0:
        for size in _SIZES:
            if all(data[at : at + 1] == b"\x47" for at in range(place, place + _PACKETS * size, size)):
                return place, size
        place += 1
    return 0, 0
