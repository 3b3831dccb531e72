"""Spectrograms of clips that are cut already, from their FLAC: without decoding a source or touching a picture.

    <part>/rows.bin      the members, one after the other
    <part>/index.json    which clip's rows lie where, and the sha256 of the FLAC that they were computed from

Rows whose FLAC is still the same are taken over, so that another crop of the pictures computes no sound again.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from soundvid.clips.render import Part, spectrogram_of, storing
from soundvid.features.spectrogram import SPECTROGRAM_VERSION
from soundvid.media.clip_codec import decode_flac
from soundvid.store.tar import Member, canonical_json, pack_sample, read_member


def spectrogram_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What of a source's settings decides about rows of given sound: nothing of the pictures but their rate."""
    return {
        "version": SPECTROGRAM_VERSION,
        "fps": settings["video"]["fps"],
        "sound": settings["sound"],
        "features": settings["features"],
    }


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    """The clips of a part by key; nothing where it is not there, or not whole."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        whole = (folder / "rows.bin").stat().st_size == index["bytes"]
        return index["clips"] if whole else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def make_spectrograms(clips: Path, settings: dict[str, Any], target: Path) -> tuple[int, int]:
    """Bring the part `target` up to date with the clips in the part `clips`; returns (computed, taken over).

    `settings` are the source's. Raises OSError or ValueError where the clips' part is not whole, StoreError
    where the store cannot be written.
    """
    part = Part.read(clips)
    known, tar = _index(target), clips / "samples.tar"
    spectrogram = spectrogram_of(settings)
    if spectrogram is None:
        raise ValueError("the recipe has no spectrogram")
    pieces: list[bytes] = []
    index: dict[str, dict[str, Any]] = {}
    place = computed = 0
    for clip in part.clips:
        if clip.sample is None:
            continue
        flac = read_member(tar, clip.sample.members["flac"])
        digest = hashlib.sha256(flac).hexdigest()
        old = known.get(clip.key)
        if old is not None and old["flac"] == digest:
            data = read_member(target / "rows.bin", Member(old["offset"], old["size"]))
        else:
            data = spectrogram.member(decode_flac(flac)[0], clip.start_frame, clip.frames)
            computed += 1
        index[clip.key] = {"flac": digest, "offset": place, "size": len(data)}
        pieces.append(data)
        place += len(data)
    if index != known or not (target / "index.json").is_file():
        _write(target, {"bytes": place, "clips": index}, pieces)
    return computed, len(index) - computed


def _write(target: Path, index: dict[str, Any], pieces: list[bytes]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with storing(target.parent):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with (temporary / "rows.bin").open("wb") as file:
            file.writelines(pieces)
        (temporary / "index.json").write_bytes(canonical_json(index))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)


def rows_of(folder: Path, key: str) -> bytes:
    """The member of one clip as it stands in a part. Raises KeyError where it is not in there."""
    place = _index(folder)[key]
    return read_member(folder / "rows.bin", Member(place["offset"], place["size"]))


def join(clips: Path, spectrograms: Path, settings: dict[str, Any], target: Path) -> None:
    """Make the part that rendering in one go leaves, byte for byte, from the two that the stages leave.

    Raises OSError, ValueError or KeyError where one of them is not whole or does not belong to the other.
    """
    part = Part.read(clips)
    spectrogram, index = spectrogram_of(settings), _index(spectrograms)
    assert spectrogram is not None
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with storing(target.parent):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        part.size = 0
        with (temporary / "samples.tar").open("wb") as tar:
            for clip in part.clips:
                if clip.sample is None:
                    continue
                members = {n: read_member(clips / "samples.tar", clip.sample.members[n]) for n in ("mp4", "flac")}
                rows = index[clip.key]
                if rows["flac"] != hashlib.sha256(members["flac"]).hexdigest():
                    raise ValueError(f"{spectrograms}: the rows of {clip.key} belong to other sound")
                members["spectrogram.npy"] = read_member(
                    spectrograms / "rows.bin", Member(rows["offset"], rows["size"])
                )
                clip.record["spectrogram"] = spectrogram.facts()
                members["json"] = canonical_json(clip.record)
                blocks, clip.sample = pack_sample(clip.key, members, part.size)
                with storing(target.parent):
                    tar.write(blocks)
                part.size += len(blocks)
        with storing(target.parent):
            (temporary / "part.json").write_bytes(part.to_json())
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
