"""Evaluation of system 4: the paper's Table 2 by condition, on the lower half, beside what costs nothing.

Source: "speech to rtMRI with wav2lip", section 2.4: SSIM and NMSE of the lower half, five videos a condition. The paper
does not say which NMSE; all three are given. Every row is measured on the same clips, at the networks' 96x96.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from soundvid.features.mel import Mel
from soundvid.features.spectrogram import Spectrogram
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.table import Better, Evaluation, Kind, Measure, Row, Table
from soundvid.metrics.tally import ClipName, Tally

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

GENERATED, MEAN, HELD = "generated", "mean frame", "reference repeated"
KINDS: dict[str, Kind] = {GENERATED: "system", MEAN: "baseline", HELD: "baseline"}
PAPERS = ("ssim", "nmse_energy", "nmse_variance", "mse")  # Table 2
PAPERS_CLIPS = 5  # videos a condition, as the paper has them
EVERY = 5  # frames between the windows that the expert is asked about
ASK = 32  # windows at a time
PAIRS = (
    "windows of 5 frames, every 5 frames, with their own 200 ms of sound, and as many with sound from another moment "
    "of the clip, at least {shift} frame(s) off"
)
EXPERT: dict[str, tuple[Better, str]] = {
    "accuracy": ("higher", f"share of pairs told right at one half; chance is 0.5; pairs: {PAIRS}"),
    "preferred": ("higher", "share of windows whose own sound is believed more than the other moment's; chance is 0.5"),
    "loss": ("lower", "binary cross-entropy of the pairs; chance is 0.693"),
}


@dataclass(frozen=True)
class Example:
    """A held-out clip and what was made of its sound; pictures are uint8 `T 96 96 3`."""

    row: dict[str, Any]  # of samples.parquet
    real: np.ndarray
    generated: np.ndarray
    reference: np.ndarray  # `N 96 96 3`: pictures of the same video that the generator saw
    mel: np.ndarray  # (80, columns) of the sound around, frame `before` of it is the clip's first
    before: int

    @property
    def condition(self) -> str:
        return self.row.get("condition") or "all"

    @property
    def fps(self) -> Fraction:
        return Fraction(self.row["fps_exact"])

    @property
    def mean(self) -> np.ndarray:
        """The mean frame, repeated."""
        picture = np.rint(self.reference.mean(0)).astype(np.uint8)
        return np.broadcast_to(picture, self.real.shape)

    @property
    def held(self) -> np.ndarray:
        """The reference's middle picture, repeated."""
        return np.broadcast_to(self.reference[len(self.reference) // 2], self.real.shape)


def lower_half(video: np.ndarray) -> np.ndarray:
    """`T H W 3` -> `T H/2 W 3`: what the paper measures."""
    return video[:, video.shape[1] // 2 :]


def examples(opened: "OpenRun", split: str, chosen: Sequence[int] | None = None) -> Iterator[Example]:
    """Held-out clips with what the run makes of them; `chosen` are numbers of clips, by default all."""
    from soundvid.systems.lip_sync.data import Pieces, reference_pictures, training_pieces
    from soundvid.systems.lip_sync.make import Maker

    pieces = Pieces(opened.clips(split))
    known = training_pieces(pieces)
    for index in range(len(pieces)) if chosen is None else chosen:
        real = pieces.pictures(index)
        reference = reference_pictures(pieces, known, index, 0, len(real))
        mel, before = pieces.mel(index)
        made = Maker(opened.system, reference).make(mel, pieces.fps(index), before, len(real), real)
        stored = np.rint(made * 255).astype(np.uint8)
        yield Example(pieces.clips.rows[index], real, stored, reference, mel, before)


def evaluate(
    opened: "OpenRun",
    split: str = "test",
    *,
    clips: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Every table of a lip_sync run; `clips` measures so many only, evenly spread. Raises SoundvidError, one line."""
    held = opened.clips(split)
    count = len(held) if clips is None else min(clips, len(held))
    chosen = [k * len(held) // count for k in range(count)]
    rows = [held.rows[i] for i in chosen]
    few = {chosen[k] for k in _spread(rows)}
    spectrogram = Spectrogram(held.rate, held.fps)
    tallies: dict[tuple[bool, str], Tally] = {}
    asked = _expert(opened, device)
    for number, (index, example) in enumerate(zip(chosen, examples(opened, split, chosen), strict=True)):
        row = example.row
        name = ClipName(row["key"], row["source_id"], row["start_frame"], row["frames"])
        made = {GENERATED: example.generated, MEAN: example.mean, HELD: example.held}
        sound = spectrogram(held.sound(index), row["start_frame"], row["frames"])
        for only_few in (False, True) if index in few else (False,):
            key = (only_few, example.condition)
            if key not in tallies:
                tallies[key] = Tally(KINDS, fps=float(held.fps), region=lower_half, seed=seed)
            tallies[key].add(name, example.real, made, spectrogram=sound)
        if asked is not None:
            asked.ask(example, Mel(), seed)
        if progress is not None:
            progress(number + 1, count)
    conditions = sorted({condition for _, condition in tallies}, key=lambda c: (c != "seen", c))
    everything = [row for c in conditions for row in tallies[False, c].rows(c)]
    first = [row for c in conditions for row in tallies[True, c].rows(c)]
    notes = _notes(opened)
    tables = [
        Table(f"Table 2: lower half, all clips of '{split}'", _only(everything, PAPERS), notes),
        Table(f"Table 2: lower half, up to {PAPERS_CLIPS} clips a condition", _only(first, PAPERS), notes),
        Table("Lower half, other measures", _without(everything, PAPERS)),
    ]
    tables += [asked.table(split)] if asked is not None else []
    lines = [{**line, "condition": c} for c in conditions for line in tallies[False, c].per_clip()]
    return Evaluation(split, count, len({r["source_id"] for r in rows}), tuple(tables), {}, tuple(lines))


def _spread(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Up to five clips of each condition, evenly spread."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(row.get("condition") or "all", []).append(index)
    return [
        i[len(i) * k // min(PAPERS_CLIPS, len(i))] for i in found.values() for k in range(min(PAPERS_CLIPS, len(i)))
    ]


def _only(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    kept = [replace(row, measures=[m for n in names for m in row.measures if m.name == n]) for row in rows]
    return [row for row in kept if row.measures]


def _without(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    return [replace(row, measures=[m for m in row.measures if m.name not in names]) for row in rows]


def _notes(opened: "OpenRun") -> tuple[str, ...]:
    config = opened.system.config
    sees = (
        "generated: from the sound and a reference of other pictures of the same video, none of the clip's own"
        if config.form == "basis"
        else "generated: from the sound, one other picture of the same video, and the clip's own upper halves"
    )
    return (
        sees,
        "reference: up to 250 pictures of the same video's training clips; of a video without any (an unseen speaker), "
        "of its other held-out clips",
        "mean frame: the mean of the reference, repeated; reference repeated: its middle picture, repeated",
        "paper (32 speakers, 19 h, fine-tuned from public weights; which NMSE is not said): SSIM 0.907, NMSE 0.0146 "
        "seen; 0.826, 0.0187 unseen Japanese; 0.815, 0.0165 unseen Chinese: other data, not to be compared",
    )


class _Expert:
    """The sync expert's answers about real and about generated pictures."""

    def __init__(self, network: Any, shift: int, device: Any) -> None:
        self.network, self.shift, self.device = network, shift, device
        self.told: dict[str, list[tuple[str, dict[str, list[float]]]]] = {}  # by condition: source, values by name

    def ask(self, example: Example, mel_of: Mel, seed: int) -> None:
        """Windows of a clip with their own sound, and with that of another moment."""
        from soundvid.systems.lip_sync.networks import WINDOW

        last = len(example.real) - WINDOW
        if last < 0:
            return
        random = np.random.default_rng([seed, example.row["start_frame"]])
        own = range(0, last + 1, EVERY)
        others = {k: [m for m in range(last + 1) if abs(m - k) >= self.shift] for k in own}
        other = {k: int(random.choice(moments)) for k, moments in others.items() if moments}
        shown, heard = [*own, *other], [*own, *other.values()]
        mels = [mel_of.window_of(example.mel, example.before + m, example.fps) for m in heard]
        labels = np.arange(len(shown)) < len(own)
        found = {}
        for name, video in (("real", example.real), (GENERATED, example.generated)):
            told = self._probability(video, shown, mels)
            sure = np.clip(np.where(labels, told, 1 - told), 1e-6, 1)
            true, false = told[[own.index(k) for k in other]], told[len(own) :]
            preferred = np.mean((true > false) + 0.5 * (true == false)) if other else np.nan
            found[name] = [float(v) for v in (((told > 0.5) == labels).mean(), preferred, -np.log(sure).mean())]
        self.told.setdefault(example.condition, []).append((example.row["source_id"], found))

    def _probability(self, video: np.ndarray, firsts: list[int], mels: list[np.ndarray]) -> np.ndarray:
        import torch

        from soundvid.systems.lip_sync.data import as_floats
        from soundvid.systems.lip_sync.networks import WINDOW, mouths_of

        told = []
        with torch.inference_mode():
            for at in range(0, len(firsts), ASK):
                frames = np.stack([as_floats(video[k : k + WINDOW]) for k in firsts[at : at + ASK]])
                mel = torch.from_numpy(np.stack(mels[at : at + ASK]))[:, None].to(self.device)
                told.append(self.network(mel, mouths_of(torch.from_numpy(frames).to(self.device))).cpu().numpy())
        return np.concatenate(told)

    def table(self, split: str) -> Table:
        """Seen and unseen speakers apart: an expert that tells the one can be at chance with the other."""
        rows = []
        for condition in sorted(self.told, key=lambda c: (c != "seen", c)):
            boot = Bootstrap([source for source, _ in self.told[condition]])
            for name in ("real", GENERATED):
                values = np.array([found[name] for _, found in self.told[condition]]).T
                measures = []
                for (what, (better, told)), each in zip(EXPERT.items(), values, strict=True):
                    count, told = int((~np.isnan(each)).sum()), told.format(shift=self.shift)
                    value, low, high = boot.mean(each) if count else (None, None, None)
                    missing = "" if count else "clips too short"
                    measures.append(Measure(what, value, "", low, high, count, boot.sources, better, told, missing))
                rows.append(Row(name, "real" if name == "real" else "system", measures, condition))
        notes = (
            ("the expert learnt from these clips" if split == "train" else "the expert did not learn from these clips")
            + "; where it is at chance on real pictures, it can say nothing of generated ones",
            "windows that overlap share their sound, and pauses sound alike: no expert tells every pair",
        )
        return Table("Sync expert: do five frames and 200 ms of sound belong together?", rows, notes)


def _expert(opened: "OpenRun", device: str) -> _Expert | None:
    """The run's trained expert; None where it has none."""
    from soundvid.training.run import open_run

    root = opened.folder.path.parent
    if not (root / "expert" / "checkpoints").is_dir():
        return None
    found = open_run(root, stage="expert", device=device)
    return _Expert(found.system.networks["expert"], found.system.config.least_shift, found.system.device)
