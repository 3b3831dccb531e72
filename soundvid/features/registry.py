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
    "wav2lip_mel": "soundvid.features.mel:Wav2LipMel",
    "log_mel": "soundvid.features.log_mel:LogMel",
    "optical_flow": "soundvid.features.optical_flow:OpticalFlow",
    "flow_field": "soundvid.features.flow_field:FlowField",
    "lip_dct": "soundvid.features.lip_dct:LipDct",
    "mel_cepstrum": "soundvid.features.mel_cepstrum:MelCepstrum",
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


def table() -> str:
    """The features and their options as Markdown, with the sizes of the default recipe; docs/features.md shows it."""
    from fractions import Fraction

    from soundvid.features.base import ClipFormat

    clip_format = ClipFormat(Fraction(30), 44100, 286, 286)
    lines = ["| feature | needs | rows | a row | what it is | units |", "|---|---|---|---|---|---|"]
    options = ["| option | default | meaning |", "|---|---|---|"]
    for name in FEATURES:
        cls = get(name)
        feature = cls(cls.Options(), clip_format)
        each = feature.rate / clip_format.fps
        rows = f"{each} per frame" if each.denominator == 1 else f"{feature.rate} per second"
        shape = " x ".join(map(str, feature.row_shape))
        needs = " and ".join(sorted(cls.needs))
        lines.append(f"| `{name}` | {needs} | {rows} | {shape} | {cls.summary} | {cls.units} |")
        for field, info in cls.Options.model_fields.items():
            default = "null" if info.default is None else info.default
            options.append(f"| `{name}.{field}` | `{default}` | {info.description or ''} |")
    return "\n".join([*lines, "", *options])
