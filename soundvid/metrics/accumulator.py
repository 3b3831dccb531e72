"""Clip by clip into numbers, and the numbers into the rows of a table.

A MetricAccumulator gets each clip once, with every video that was made for it, and keeps numbers and two curves of it,
no pictures: memory does not grow with their size.

    kinds = {"wav2lip": "system", "mean frame": "baseline", "reference repeated": "baseline"}
    accumulator = MetricAccumulator(kinds, region=lower_half)
    for clip in clips:
        made = {"wav2lip": video, "mean frame": mean, "reference repeated": repeated}
        accumulator.add(ClipName(key, source), real, made)
    table = Table("Table 2", accumulator.rows(condition="seen speakers"))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from soundvid.metrics import frechet, images, motion, motion_frechet, synchrony
from soundvid.metrics.bootstrap import Bootstrap, Estimate
from soundvid.metrics.table import Better, Kind, Measure, Row

REAL = "real"
OTHERS = 8  # clips whose sound is taken as "another sound"
NO_MOTION, NO_ONSETS = "no motion", "no onsets"
NO_OTHER = "no other sound"
HIGHER: dict[str, Better] = dict.fromkeys(("ssim", "cw_ssim", "psnr", "spacetime"), "higher")
COMPARED = ("l1", "ssim", "cw_ssim", "psnr", "spacetime")  # clip by clip with each baseline
Features = Callable[[np.ndarray], np.ndarray]  # a video, uint8 `T H W 3` -> `D`


@dataclass(frozen=True)
class ClipName:
    """Which clip it is. `source` is the video it was cut from, `start` and `frames` where, on its frame grid."""

    key: str
    source: str
    start: int = 0
    frames: int = 0

    def overlaps(self, other: "ClipName") -> bool:
        near = self.start < other.start + other.frames and other.start < self.start + self.frames
        return self.source == other.source and (near or not self.frames)


@dataclass
class _Videos:
    """What is kept of the videos of one row: an entry for each clip."""

    numbers: list[dict[str, float]] = field(default_factory=list)
    motion: list[np.ndarray] = field(default_factory=list)
    histograms: list[np.ndarray] = field(default_factory=list)  # of motion, of clips that are long enough
    features: list[np.ndarray] = field(default_factory=list)


class MetricAccumulator:
    """Numbers of several ways to make the same clips.

    `kinds` names them and says what each is. `region` cuts the part that is measured out of a video `T H W 3` (the
    lower half of an MRI picture). `features` makes FVD and KVD; without it they are "not computed", for the reason
    `without_features`, or left out where that is None. `events` of `add` are known onsets, for `lag_to_truth`.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        *,
        fps: float = 30.0,
        region: Callable[[np.ndarray], np.ndarray] | None = None,
        features: Features | None = None,
        without_features: str | None = None,
        seed: int = 0,
    ) -> None:
        if REAL in kinds:
            raise ValueError(f"'{REAL}' is the real clips' own row")
        self.kinds: dict[str, Kind] = dict(kinds)
        self.fps, self.region, self.seed = fps, region, seed
        self.features, self.without_features = features, without_features
        self.clips: list[ClipName] = []
        self.onsets: list[np.ndarray | None] = []
        self.events: list[np.ndarray | None] = []
        self.floor: list[np.ndarray] = []  # features of other real clips
        self.floor_histograms: list[np.ndarray] = []
        self.videos = {name: _Videos() for name in (REAL, *self.kinds)}
        self._synchronies: dict[str, list[dict[str, float]]] = {}

    def add(
        self,
        clip: ClipName,
        real: np.ndarray,
        made: Mapping[str, np.ndarray],
        *,
        spectrogram: np.ndarray | None = None,
        events: Sequence[int] | None = None,
        image: np.ndarray | None = None,
    ) -> None:
        """A real clip and what each way made of it: uint8 or float [0, 1], `T H W 3`, of one shape.

        `spectrogram` (`T` or more rows, bins) is its sound; without one, synchrony is left out. `events` are numbers
        of frames within the clip. `image` (`H W 3`) is the picture that the clip was made from, for `ghost`.
        """
        if set(made) != set(self.kinds):
            raise ValueError(f"clip {clip.key}: wanted {', '.join(self.kinds)}; got {', '.join(made) or 'nothing'}")
        real = self._cut(real)
        self._keep(REAL, real, {})
        there, blocks = motion.change_map(real), synchrony.change_blocks(real)
        given = None if image is None else self._cut(image[None])[0]
        for name, video in made.items():
            video = self._cut(video)
            numbers = images.compare(real, video)
            if given is not None:
                numbers["ghost"] = images.ghost(given, real, video)
            numbers["motion_place"] = motion.same_place(there, motion.change_map(video))
            numbers["spacetime"] = synchrony.spacetime(blocks, synchrony.change_blocks(video))
            self._keep(name, video, numbers)
        self.clips.append(clip)
        self.onsets.append(None if spectrogram is None else synchrony.onset_envelope(spectrogram[: len(real)]))
        self.events.append(None if events is None else synchrony.event_envelope(events, len(real)))

    def add_floor(self, video: np.ndarray) -> None:
        """A real clip of another split: with as many of them as clips, the table has a real-against-real floor."""
        video = self._cut(video)
        self.floor_histograms += _histograms(video)
        if self.features is not None:
            self.floor.append(self.features(video))

    def _cut(self, video: np.ndarray) -> np.ndarray:
        return video if self.region is None else self.region(video)

    def _keep(self, name: str, video: np.ndarray, numbers: dict[str, float]) -> None:
        kept = self.videos[name]
        kept.numbers.append(numbers)
        kept.motion.append(motion.motion_energy(video))
        kept.histograms += _histograms(video)
        if self.features is not None:
            kept.features.append(self.features(video))

    # What follows runs once, when every clip is in.

    def rows(self, condition: str = "") -> tuple[Row, ...]:
        """A row for each way, then the real clips', then the real-against-real floor. Raises ValueError if empty."""
        if not self.clips:
            raise ValueError("no clip was measured")
        boot = Bootstrap([c.source for c in self.clips], seed=self.seed)
        made = [Row(name, kind, tuple(self._measures(boot, name)), condition) for name, kind in self.kinds.items()]
        real = self._follows(boot, REAL)
        floor = [*self._floor_motion(), *self._floor()]
        return (
            *made,
            *([Row(REAL, "real", tuple(real), condition)] if real else []),
            *([Row("real against real", "floor", tuple(floor), condition)] if floor else []),
        )

    def _measures(self, boot: Bootstrap, name: str) -> list[Measure]:
        sets = [*self._motion_sets(name), *self._sets(name)]
        return [*self._picture(boot, name), *self._follows(boot, name), *sets]

    def per_clip(self) -> list[dict[str, Any]]:
        """One line for each clip and way, as Evaluation.per_clip has them."""
        lines = []
        for name in (*self.kinds, REAL):
            follows = self._followed(name)
            for i, clip in enumerate(self.clips):
                numbers = {**self.videos[name].numbers[i], "motion_energy": float(self._motion(name, i).mean())}
                values = {k: None if np.isnan(v) else v for k, v in {**numbers, **follows[i]}.items()}
                lines.append({"key": clip.key, "source": clip.source, "row": name, **values})
        return lines

    def _motion(self, name: str, index: int) -> np.ndarray:
        return self.videos[name].motion[index]

    def curves(self, name: str, envelopes: Sequence[np.ndarray | None]) -> np.ndarray:
        """Correlograms of a way's motion with an envelope for each clip: `N 2 SEARCH + 1`."""
        blank = np.full(2 * synchrony.SEARCH + 1, np.nan)
        given = [
            blank if envelope is None else synchrony.correlogram(self._motion(name, i), envelope)
            for i, envelope in enumerate(envelopes)
        ]
        return np.array(given)

    def _followed(self, name: str) -> list[dict[str, float]]:
        """`_synchrony` of every clip; kept, because table and per-clip lines both want it."""
        kept = self._synchronies.get(name, [])
        if len(kept) != len(self.clips):
            others = OtherSounds(self.clips, self.seed)
            kept = self._synchronies[name] = [self._synchrony(name, i, others) for i in range(len(self.clips))]
        return kept

    def _synchrony(self, name: str, index: int, others: "OtherSounds") -> dict[str, float]:
        """A clip's own numbers; empty without sound."""
        onsets = self.onsets[index]
        if onsets is None:
            return {}
        energy = self._motion(name, index)
        shuffled = [self.onsets[j] for j in others.of(index)]
        curve = synchrony.correlogram(energy, onsets)
        real = synchrony.correlogram(self._motion(REAL, index), onsets)
        return {
            "lag": synchrony.peak_lag(curve),
            "lag_error": abs(synchrony.peak_lag(curve) - synchrony.peak_lag(real)),
            "peak_correlation": synchrony.peak_correlation(curve),
            "audio_sensitivity": sensitivity(energy, onsets, [s for s in shuffled if s is not None]),
            "av_align": synchrony.av_align(energy, onsets),
        }

    def _picture(self, boot: Bootstrap, name: str) -> list[Measure]:
        numbers, found = self.videos[name].numbers, []
        for key, definition in images.DEFINITIONS.items():
            values = np.array([n[key] for n in numbers])
            better: Better = HIGHER.get(key, "lower")
            found.append(
                self.measure(boot, key, boot.mean(values), values, better, definition, "dB" if key == "psnr" else "")
            )
        if all("ghost" in n for n in numbers):
            ghosts = np.array([n["ghost"] for n in numbers])
            found.append(self.measure(boot, "ghost", boot.mean(ghosts), ghosts, "zero", images.GHOST))
        mine, theirs = (np.array([e.sum() for e in self.videos[n].motion]) for n in (name, REAL))
        ratio = boot.interval(boot.ratios(mine, theirs))
        found.append(self.measure(boot, "motion_ratio", ratio, theirs, "one", motion.DEFINITION, missing=NO_MOTION))
        places = np.array([n["motion_place"] for n in numbers])
        place = boot.mean(places)
        found.append(self.measure(boot, "motion_place", place, places, "higher", motion.PLACE, missing=NO_MOTION))
        fits = np.array([n["spacetime"] for n in numbers])
        define = synchrony.DEFINITIONS["spacetime"]
        found.append(self.measure(boot, "spacetime", boot.mean(fits), fits, "higher", define, missing=NO_MOTION))
        return found

    def _follows(self, boot: Bootstrap, name: str) -> list[Measure]:
        """Synchrony of one way; for the real clips what does not compare them with themselves."""
        if all(onsets is None for onsets in self.onsets):
            return []
        found = self._lags(boot, name)
        follows = self._followed(name)
        betters: dict[str, Better] = {"lag_error": "lower"}
        for key in ("lag_error", "peak_correlation", "audio_sensitivity", "av_align"):
            if key == "lag_error" and name == REAL:
                continue
            values = np.array([f.get(key, np.nan) for f in follows])
            missing = {"audio_sensitivity": NO_OTHER, "av_align": NO_ONSETS}.get(key, NO_MOTION)
            better, unit = betters.get(key, "real"), "frames" if key == "lag_error" else ""
            definition = synchrony.DEFINITIONS[key]
            found.append(self.measure(boot, key, boot.mean(values), values, better, definition, unit, missing))
        return found

    def _lags(self, boot: Bootstrap, name: str) -> list[Measure]:
        define = synchrony.DEFINITIONS
        mine, real = self.curves(name, self.onsets), self.curves(REAL, self.onsets)
        lag = boot.statistic(synchrony.peak_lags, mine)
        found = [self.measure(boot, "lag", lag, mine[:, synchrony.SEARCH], "zero", define["lag"], "frames", NO_MOTION)]
        if name != REAL:
            found += self._difference(boot, "lag_difference", mine, real)
        if any(events is not None for events in self.events) and name != REAL:
            mine, real = self.curves(name, self.events), self.curves(REAL, self.events)
            found += self._difference(boot, "lag_to_truth", mine, real)[:1]
        return found

    def _difference(self, boot: Bootstrap, key: str, mine: np.ndarray, real: np.ndarray) -> list[Measure]:
        """Peak of the mean curve minus the real clips', over the clips that have both; in frames and in ms."""
        either = np.isnan(mine) | np.isnan(real)
        both = np.where(np.concatenate([either, either], axis=1), np.nan, np.concatenate([mine, real], axis=1))
        size = mine.shape[1]
        apart = boot.statistic(lambda r: synchrony.peak_lags(r[:, :size]) - synchrony.peak_lags(r[:, size:]), both)
        have, define = both[:, synchrony.SEARCH], synchrony.DEFINITIONS[key]
        frames = self.measure(boot, key, apart, have, "zero", define, "frames", NO_MOTION)
        low, high = (None if b is None else b * 1000 / self.fps for b in apart[1:])
        milliseconds: Estimate = (apart[0] * 1000 / self.fps, low, high)
        definition = f"{key} at {self.fps:g} frames a second"
        return [frames, self.measure(boot, f"{key}_ms", milliseconds, have, "zero", definition, "ms", NO_MOTION)]

    def measure(
        self,
        boot: Bootstrap,
        name: str,
        estimate: Estimate,
        values: np.ndarray,
        better: Better,
        definition: str,
        unit: str = "",
        missing: str = "the real clips are flat",
    ) -> Measure:
        """A Measure of an estimate over clips; `values` says by NaN which clips took part."""
        value, low, high = estimate
        took = ~np.isnan(values)
        if np.isnan(value):
            sounds = [o for o in self.onsets if o is not None]
            if missing == NO_MOTION and sounds and not any(map(synchrony.has_onsets, sounds)):
                missing = NO_ONSETS
            return Measure(name, None, unit, n=0, better=better, definition=definition, missing=missing)
        sources = len({c.source for c, t in zip(self.clips, took, strict=True) if t})
        return Measure(name, value, unit, low, high, int(took.sum()), sources, better, definition)

    def differences(self, name: str, condition: str = "", keys: Sequence[str] = COMPARED) -> tuple[Row, ...]:
        """What `name` has more than each baseline, clip by clip, of the measures `keys`: means with intervals; a row
        for each baseline."""
        boot = Bootstrap([c.source for c in self.clips], seed=self.seed)
        definitions = {**images.DEFINITIONS, "spacetime": synchrony.DEFINITIONS["spacetime"]}
        found = []
        for other, kind in self.kinds.items():
            if kind != "baseline" or other == name:
                continue
            measures = []
            for key in keys:
                mine, theirs = (np.array([n[key] for n in self.videos[v].numbers]) for v in (name, other))
                text = (
                    f"{key} of '{name}' minus that of the row, of the same clip ({definitions[key].partition(';')[0]})"
                )
                unit, better = "dB" if key == "psnr" else "", HIGHER.get(key, "lower")
                apart = mine - theirs
                measures.append(self.measure(boot, key, boot.mean(apart), apart, better, text, unit, missing=NO_MOTION))
            found.append(Row(other, kind, tuple(measures), condition))
        return tuple(found)

    def _motion_sets(self, name: str) -> list[Measure]:
        return self._motion_distance(self.videos[name].histograms)

    def _floor_motion(self) -> list[Measure]:
        real = self.videos[REAL].histograms
        if not real or len(self.floor_histograms) != len(real):
            return []
        return self._motion_distance(self.floor_histograms)

    def _motion_distance(self, others: list[np.ndarray]) -> list[Measure]:
        real = self.videos[REAL].histograms
        windows = sum(map(len, real))
        if windows < motion_frechet.FEWEST:
            missing = f"needs {motion_frechet.FEWEST} windows of {motion_frechet.WINDOW} frames"
            key, definition = motion_frechet.NAME, motion_frechet.definition()
            return [Measure(key, None, better="lower", definition=definition, missing=missing)]
        value = motion_frechet.distance(real, others)
        sources = len({c.source for c in self.clips})
        return [
            Measure(motion_frechet.NAME, value, n=len(self.clips), sources=sources, better="lower",
                    definition=motion_frechet.definition(), no_interval=True)
        ]  # fmt: skip

    def _sets(self, name: str) -> list[Measure]:
        return self._distances(self.videos[REAL].features, self.videos[name].features)

    def _floor(self) -> list[Measure]:
        if self.features is None:
            return []
        if len(self.floor) != len(self.clips):
            missing = f"needs {len(self.clips)} other real clips"
            return [self._no_distance(key, missing) for key in frechet.DEFINITIONS]
        return self._distances(self.videos[REAL].features, self.floor)

    def _distances(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[Measure]:
        if self.features is None:
            missing = self.without_features
            return [] if missing is None else [self._no_distance(key, missing) for key in frechet.DEFINITIONS]
        if len(first) < 2:
            return [self._no_distance(key, "needs two clips or more") for key in frechet.DEFINITIONS]
        one, other = np.array(first), np.array(second)
        values = {"fvd": frechet.frechet_distance(one, other), "kvd": frechet.kernel_distance(one, other)}
        sources, n = len({c.source for c in self.clips}), len(first)
        return [
            Measure(key, v, n=n, sources=sources, better="lower", definition=frechet.DEFINITIONS[key], no_interval=True)
            for key, v in values.items()
        ]

    def _no_distance(self, key: str, missing: str) -> Measure:
        return Measure(key, None, better="lower", definition=frechet.DEFINITIONS[key], missing=missing)


def _histograms(video: np.ndarray) -> list[np.ndarray]:
    """Rows of motion_frechet, in a list of one; none where the clip is too short for a window."""
    if len(video) < motion_frechet.WINDOW:
        return []
    return [motion_frechet.features(images.as_bytes(video))]


class OtherSounds:
    """For each clip, clips whose sound is another one: of other sources, or else of other moments of the same."""

    def __init__(self, clips: Sequence[ClipName], seed: int = 0) -> None:
        self.clips, self.seed = clips, seed
        self.source = np.unique([c.source for c in clips], return_inverse=True)[1] if clips else np.zeros(0, int)

    def of(self, index: int, count: int = OTHERS) -> list[int]:
        """At most `count` of them; a fixed draw."""
        apart = np.flatnonzero(self.source != self.source[index])
        if not len(apart):
            clip = self.clips[index]
            away = [i for i, c in enumerate(self.clips) if i != index and not clip.overlaps(c)]
            apart = np.array(away, dtype=int)
        random = np.random.default_rng([self.seed, index])
        return sorted(random.choice(apart, min(count, len(apart)), replace=False).tolist())


def sensitivity(energy: np.ndarray, own: np.ndarray, shuffled: Sequence[np.ndarray]) -> float:
    """How much better a motion fits one sound than others: peak correlation minus the mean of the others'.

    Onset envelopes may differ from `energy` in length. NaN where `own` has no onsets or there are no others; 0 where
    nothing moves.
    """

    rest = [s for s in shuffled if synchrony.has_onsets(s)]
    if not synchrony.has_onsets(own) or not rest:
        return float("nan")
    if motion.is_still(energy):
        return 0.0
    return score(energy, own) - float(np.mean([score(energy, s) for s in rest]))


def score(energy: np.ndarray, onsets: np.ndarray) -> float:
    """Peak correlation of a motion with a sound, over the frames that both have."""
    length = min(len(energy), len(onsets))
    curve = synchrony.correlogram(energy[:length], onsets[:length], synchrony.NEAR)
    return synchrony.peak_correlation(curve)


def known_events(frames: Mapping[str, Sequence[int]]) -> Callable[[ClipName], list[int] | None]:
    """The `truth` of an evaluation on sources whose events are known, as those of drawn sources are.

    `frames` are the frames of whole sources that show an event, by file name without its suffix, as keys of clips
    begin with it. Returns a function: a clip -> numbers of its frames that show one; None for clips of other sources.
    """

    def of(clip: ClipName) -> list[int] | None:
        known = frames.get(clip.key.rsplit("-", 2)[0])
        if known is None:
            return None
        return [frame - clip.start for frame in known if clip.start <= frame < clip.start + clip.frames]

    return of
