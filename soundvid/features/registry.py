"""The features by name. A feature's module is imported when it is asked for, so that listing them costs nothing.

A new feature is a file in this package and a line in `FEATURES`; see docs/features.md.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from soundvid.errors import SoundvidError

if TYPE_CHECKING:
    from soundvid.features.base import ClipFormat, Feature, FeatureOptions

FEATURES = {
    "spectrogram": "soundvid.features.spectrogram:SpectrogramFeature",
}


def names() -> list[str]:
    """The names of all features, in the order of their members in a sample."""
    return list(FEATURES)


def get(name: str) -> "type[Feature]":
    """The feature of this name. Raises SoundvidError that lists the features there are."""
    if name not in FEATURES:
        close = difflib.get_close_matches(name, FEATURES, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise SoundvidError(f"features: there is no feature '{name}' ({', '.join(FEATURES)}){hint}")
    module, _, cls = FEATURES[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def create(
    options: "Mapping[str, FeatureOptions | dict[str, Any] | None]", clip_format: "ClipFormat"
) -> "list[Feature]":
    """The features that a recipe's `features` section asks for (null: not this one), in the order of their members.

    Raises SoundvidError for an unknown name, ValueError for options that are not valid or do not fit `clip_format`.
    """
    wanted = {name: value for name, value in options.items() if value is not None}
    for name in wanted:
        get(name)
    return [(cls := get(n))(cls.Options.model_validate(wanted[n]), clip_format) for n in FEATURES if n in wanted]
