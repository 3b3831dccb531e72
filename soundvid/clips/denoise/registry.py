"""The methods of noise reduction by name, and the door to a source's sound.

A new method is a file in this package, a line in `METHODS`, and its name in `sound.denoise.method` of the recipe.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from soundvid.clips.denoise.base import Denoised, DenoiseMethod, SampleReader, not_installed
from soundvid.clips.denoise.noise import noise_of, opener
from soundvid.media.probe import SoundTrack, Source
from soundvid.recipe.model import Denoise
from soundvid.recipe.model import Sound as SoundSection

METHODS = {
    "spectral_gating": "soundvid.clips.denoise.spectral_gating:Gate",
    "noisereduce": "soundvid.clips.denoise.noisereduce:NoiseReduce",
}
LIBRARIES = {"noisereduce": "noisereduce"}  # a library whose version decides the samples, too


def get(method: str) -> type[DenoiseMethod]:
    """The method of this name; its module is imported when it is asked for."""
    module, _, cls = METHODS[method].partition(":")
    return getattr(importlib.import_module(module), cls)


def library_version(options: Denoise) -> str | None:
    """Name and version of the library that decides the samples with soundvid, such as `noisereduce 3.0.3`; or None.

    Raises RecipeError where it is not installed: call it before a build begins.
    """
    library = LIBRARIES.get(options.method)
    if library is None:
        return None
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise not_installed(library) from error


def open_sound(
    heard: Source | SoundTrack, section: SoundSection, duration: Fraction, heartbeat: Callable[[], None]
) -> tuple[SampleReader, dict[str, Any]]:
    """The sound of a source as the recipe's section `sound` asks for it, and what the ledger says of its noise.

    `duration` is that of the pictures, in seconds: noise is looked for while there are some, and the track ends with
    them. Raises MediaError where the noise that the recipe names is not there.
    """
    make = opener(heard, section.rate, None if section.channel == "mix" else section.channel - 1, heartbeat)
    options = section.denoise
    if options is None:
        return make(), {}
    noise = noise_of(make, duration, options)
    facts: dict[str, Any] = {"noise_profile": "follows the sound" if noise is None else "file"}
    if noise is not None:
        facts["noise_dbfs"] = round(noise.dbfs, 2)
        if noise.start is not None and noise.stop is not None:
            facts["noise_profile"] = f"{noise.start:g} to {noise.stop:g} s"
    method = get(options.method)(section.rate, options, None if noise is None else noise.samples)
    return Denoised(make, method, duration), facts
