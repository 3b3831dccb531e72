"""What the deep relational model learns from: lip pictures and speech of the same moments, at the speech's rate.

A clip has pictures 25 times a second and mel-cepstra 200 times. A speech row lies at (r + 1/2) / 200 s, picture k in
the middle of its share of time at (k + 1/2) / fps; pictures' features are interpolated linearly to the rows' times.
The principal components are linear, too, so pictures are projected first, which costs an eighth.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.features.base import ClipFormat
from soundvid.features.lip_dct import LipDct
from soundvid.features.mel_cepstrum import MelCepstrum
from soundvid.store.load import Clips, load
from soundvid.training.system import Examples, Purpose

if TYPE_CHECKING:
    from soundvid.systems.deep_relational.config import Config

MOST_PICTURES = 1024  # of the training clips, from which the principal components are taken
MOST_ROWS = 20000  # of speech, for its mean and deviation
MOST_KEPT = 1 << 29  # bytes of a split's features that are kept in memory


@dataclass(frozen=True)
class Form:
    """The two features as a run has them."""

    fps: Fraction
    lips: LipDct
    speech: MelCepstrum

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Form":
        """From `RelationExamples.facts`, as config.json holds them."""
        shape = ClipFormat(Fraction(facts["fps"]), facts["rate"], facts["width"], facts["height"])
        lips = LipDct(LipDct.Options.model_validate(facts["lip_dct"]), shape)
        return cls(shape.fps, lips, MelCepstrum(MelCepstrum.Options.model_validate(facts["mel_cepstrum"]), shape))

    def averaged_rows(self, config: "Config") -> int:
        """Speech rows whose mean is a moment of the speech's layer, an odd number; 1: the row itself."""
        offsets = config.speech_offsets
        if not config.speech_averaged or len(offsets) == 1:
            return 1
        return 2 * int((offsets[1] - offsets[0]) * float(self.speech.rate) / 2) + 1

    def place(self, row: "np.ndarray | float") -> Any:
        """Where a speech row lies among pictures: k is the middle of picture k."""
        return (np.asarray(row) + 0.5) * float(self.fps / self.speech.rate) - 0.5

    def row(self, picture: np.ndarray) -> np.ndarray:
        """Where the middle of a picture lies among speech rows: r is the middle of row r."""
        return (np.asarray(picture) + 0.5) * float(self.speech.rate / self.fps) - 0.5


@dataclass(frozen=True)
class Statistics:
    """What is measured on training clips: how features become visible units. float32.

    `picture_mean` (D,), `basis` (K, D) orthonormal rows, `deviation` (K,) of the components; `speech_mean` and
    `speech_deviation` (M,). Where features are relative to a source, deviations are about its own mean.
    """

    picture_mean: np.ndarray
    basis: np.ndarray
    deviation: np.ndarray
    speech_mean: np.ndarray
    speech_deviation: np.ndarray


class RelationExamples(Examples):
    """Moments of clips. An example has

    `pictures` float32 (P, D) DCT rows of consecutive pictures (of training clips `projected` (P, K), these along the
    principal components), `speech` (S, M) mel-cepstra, both with the context that the taps reach (at a clip's ends its
    first or last row again); `place` (R,) and `row` int64 (R,): where the
    example's R moments lie among them; where features are relative to a source, `picture_mean` (D,) and `speech_mean`
    (M,): what is subtracted.
    """

    def __init__(self, config: "Config", clips: Clips, purpose: Purpose) -> None:
        self.config, self.clips, self.purpose = config, clips, purpose
        recipe = clips.manifest["recipe"]
        for name in ("lip_dct", "mel_cepstrum"):
            if name not in clips.features:
                raise DatasetError(
                    f"{clips.name}@{clips.version}: its clips have no {name}; build the dataset with it (features: "
                    f"{name} in the recipe, as in the built-in recipe lips-speech)"
                )
        video = recipe["video"]
        self.facts: dict[str, Any] = {
            "fps": str(clips.fps_exact),
            "rate": clips.rate,
            "width": video["width"],
            "height": video["height"],
            "video": video,
            "lip_dct": recipe["features"]["lip_dct"],
            "mel_cepstrum": recipe["features"]["mel_cepstrum"],
        }
        self.form = Form.of(self.facts)
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.frames = min(config.frames, min(clips.table.column("frames").to_pylist()))
        self.rows = min(config.rows, floor(self.frames * self.form.speech.rate / clips.fps_exact))
        if purpose == "train":
            self.facts["components"] = len(self.statistics.basis)

    def __len__(self) -> int:
        return len(self.clips)

    # -- what is subtracted

    @cached_property
    def means(self) -> "SourceMeans":
        return SourceMeans(self.clips)

    def rows_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A clip's pictures and mel-cepstra (S, M), float32. Small datasets are kept in memory.

        Pictures are DCT rows (P, D), of training clips what the principal components have of them (P, K).
        """
        found = self._kept.get(index)
        if found is None:
            pictures, speech = self.clips.feature(index, "lip_dct"), self.clips.feature(index, "mel_cepstrum")
            if self.purpose == "train":
                pictures = pictures @ self.statistics.basis.T
            found = pictures.astype(np.float32, copy=False), speech.astype(np.float32, copy=False)
            if len(self.clips) * (found[0].nbytes + found[1].nbytes) < MOST_KEPT:
                self._kept[index] = found
        return found

    @cached_property
    def statistics(self) -> Statistics:
        """Of these clips. Only the training's are used."""
        relative = self.config.relative_to == "source"
        every = max(1, sum(self.clips.table.column("frames").to_pylist()) // MOST_PICTURES)
        rows, speech = [], []
        for index in range(len(self.clips)):
            pictures, sound = self.clips.feature(index, "lip_dct"), self.clips.feature(index, "mel_cepstrum")
            own = self.means.of(index) if relative else (np.zeros(1), np.zeros(1))
            rows.append(pictures[index % every :: every] - own[0])
            speech.append(sound[:: max(1, len(self.clips) * len(sound) // MOST_ROWS)] - own[1])
        shown, heard = np.concatenate(rows).astype(np.float64), np.concatenate(speech).astype(np.float64)
        centre = shown.mean(0)
        basis, deviation = principal(shown - centre, self.config.variance_share, self.config.most_components)
        if relative:
            centre = np.mean([self.means.of(i)[0] for i in range(len(self.clips))], axis=0, dtype=np.float64)
            level = np.mean([self.means.of(i)[1] for i in range(len(self.clips))], axis=0, dtype=np.float64)
        else:
            level = heard.mean(0)
        spread = np.maximum(heard.std(0), 1e-4)
        if self.config.scaling == "common":
            deviation = np.full_like(deviation, np.sqrt(np.square(deviation).mean()))
            spread[1:] = np.sqrt(np.square(spread[1:]).mean())
        found = (centre, basis, deviation, level, spread)
        return Statistics(*(np.asarray(values, np.float32) for values in found))

    # -- moments

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        config, form = self.config, self.form
        random = np.random.default_rng([config.seed, 0 if self.purpose == "validation" else 1 + epoch, index])
        pictures, speech = self.rows_of(index)
        first = int(random.integers(len(pictures) - self.frames + 1))
        low = int(np.ceil(form.row(np.array(first - 0.5))))
        whole = floor(self.frames * form.speech.rate / form.fps)
        count = min(len(speech) - low, whole)
        if self.purpose == "validation":
            moments = low + np.arange(self.rows) * count // self.rows
        else:
            moments = low + np.sort(random.choice(count, self.rows, replace=count < self.rows))
        before = np.ceil(config.lips_offsets[-1] * float(form.fps)) + 1
        behind = np.ceil(config.speech_offsets[-1] * float(form.speech.rate)) + form.averaged_rows(config) // 2 + 1
        shown = np.arange(first - int(before), first + self.frames + int(before))
        heard = np.arange(low - int(behind), low + whole + int(behind))
        found = {
            "projected" if self.purpose == "train" else "pictures": pictures[shown.clip(0, len(pictures) - 1)],
            "speech": speech[heard.clip(0, len(speech) - 1)],
            "place": (form.place(moments) - shown[0]).astype(np.float32),
            "row": moments - heard[0],
        }
        if config.relative_to == "source":
            found["picture_mean"], found["speech_mean"] = self.means.of(index)
        return found


class SourceMeans:
    """The mean picture and the mean mel-cepstrum of each source, over its training clips.

    A source without any (an unseen speaker) has the mean of its other clips in the same split; one with a single clip
    that of this clip.
    """

    def __init__(self, clips: Clips) -> None:
        self.clips = clips
        self.train = clips
        if clips.split != "train":
            try:
                self.train = load(clips.name, clips.version, "train", store=clips.store, subjects=clips.subjects)
            except DatasetError:
                self.train = clips
        self._known: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        self._of: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Of clip `index`: float32 (D,) and (M,)."""
        if index not in self._of:
            self._of[index] = self._found(index)
        return self._of[index]

    def _found(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        source = self.clips.rows[index]["source_id"]
        others = [i for i, row in enumerate(self.train.rows) if row["source_id"] == source]
        held, skipped = self.train, -1
        if not others:
            held = self.clips
            same = [i for i, row in enumerate(held.rows) if row["source_id"] == source]
            skipped = index if len(same) > 1 else -1
            others = [i for i in same if i != skipped]
        key = (skipped, source)
        if key not in self._known:
            shown = [held.feature(i, "lip_dct").mean(0, dtype=np.float64) for i in others]
            heard = [held.feature(i, "mel_cepstrum").mean(0, dtype=np.float64) for i in others]
            means = [np.mean(values, axis=0).astype(np.float32) for values in (shown, heard)]
            self._known[key] = means[0], means[1]
        return self._known[key]


def principal(rows: np.ndarray, share: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of centred rows (N, D): orthonormal (K, D), and their deviations (K,).

    As few as hold `share` of the variance, at most `most`, at least one.
    """
    small = rows.shape[0] <= rows.shape[1]
    values, vectors = np.linalg.eigh(rows @ rows.T if small else rows.T @ rows)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    total = max(values.sum(), 1e-12)
    count = int(np.searchsorted(values.cumsum() / total, share) + 1)
    count = max(1, min(count, most, int((values > 1e-9 * total).sum())))
    basis = rows.T @ vectors[:, :count] if small else vectors[:, :count]
    basis = (basis / np.maximum(np.linalg.norm(basis, axis=0), 1e-12)).T
    return basis, np.sqrt(np.maximum(values[:count], 1e-9) / len(rows))
