"""System 1 on real videos: one training for each subject that ends, and its table against the baselines.

The videos are those of SOUNDVID_MEDIA (or --media): a handful of each subject, some ten seconds long, unlike each
other and many of them filmed by a moving camera: what comes out says how little can be learnt from so little. Each
video's time is cut: its first part is learnt from, its last is measured, with a gap between them. How much of the
foreseen motion to generate is found before, by a training on the beginning of the first part: as much as costs no L1
on the rest of it, against a still picture.

    python -m benchmarks.real [--subjects hand mouth music fireworks] [--preset recommended] [--steps 600]
        [--minutes M] [--media FOLDER] [--folder .cache/real]
"""

import argparse
import os
import sys
from pathlib import Path

import cv2

from benchmarks import quality

SUBJECTS = ("hand", "mouth", "music", "fireworks")


PARTS = {
    "strength": {"train": 0.5, "val": 0.2, "test": 0.3},  # the last is not looked at
    "measured": {"train": 0.7, "test": 0.3},
}


def recipe(media: Path, subjects: list[str], part: str) -> dict:
    return {
        "name": f"real-{part}",
        "sources": [{"folder": str(media / s), "subject": s, "licence": "unstated"} for s in subjects],
        "clips": {"seconds": 1.6, "clips_per_second": 2.0},
        "video": {"width": quality.SIDE, "height": quality.SIDE},
        "splits": {"by": "time", "ratios": PARTS[part], "guard_seconds": 0.25},
    }


def main() -> None:
    import soundvid
    from soundvid.recipe.model import Recipe
    from soundvid.runs.evaluate import evaluate_run
    from soundvid.runs.open import open_run

    options = parser.parse_args()
    if options.media is None:
        raise SystemExit("benchmarks.real: say where the videos are: --media FOLDER, or SOUNDVID_MEDIA")
    cv2.setNumThreads(1)
    datasets = {}
    for part in PARTS:
        built = soundvid.build(
            Recipe.model_validate(recipe(options.media, options.subjects, part)), store=options.folder / "store"
        )
        print(f"dataset {built.dataset} {built.version}: {built.clips['kept']} clips", file=sys.stderr)
        datasets[part] = f"{built.dataset}@{built.version}"
    print(f"    python -m benchmarks.real {' '.join(a for a in sys.argv[1:])}".rstrip() + "\n")
    given = ["frames=48", *(options.set or [])]

    def train(part: str, subject: str, *values: str) -> Path:
        options.set = [*given, *values]
        # Both have the folder of the store, and one of their own for runs.
        return quality.train(
            options.folder, datasets[part], subject, options.preset, options.seed, options, runs=f"runs-{part}"
        )

    for subject in options.subjects:
        found = open_run(train("strength", subject, "most_l1=1"), "last", device=options.device).system.strength
        strength = round(float(found), 2)
        print(f"- {subject}: {strength:g} of the foreseen motion costs no L1 on the videos' middle part", flush=True)
        # With 0 nothing moves, and nothing could be measured.
        run = train("measured", subject, f"strength={max(strength, 0.01)}")
        evaluation = evaluate_run(run, "test", which="last", clips=options.clips, device=options.device)
        tables = evaluation.tables
        print(f"\n### {subject}\n")
        print("\n".join(quality.short(tables[0], tables[1])) + "\n", flush=True)
        for table in tables if options.whole else ():
            print(table.markdown(definitions=False), flush=True)
        print("| target | seen | reached |\n|---|---|---|")
        for what, seen, ok in targets(tables[0], tables[1]):
            print(f"| {what} | {seen} | {'yes' if ok else 'no'} |", flush=True)
        print()


def targets(measured, swapped) -> list[tuple[str, str, bool]]:
    """What is asked of motion on real videos: (what, seen, reached). Without an interval nothing is shown."""
    ours = next(r for r in measured.rows if r.kind == "system")
    copied, flicker = measured.row("copy first frame")["l1"].value, measured.row("flicker")["spacetime"]
    lost = next(r for r in swapped.rows if r.kind == "system")["spacetime_lost"]
    share, place = ours["l1"].value / copied, ours["spacetime"]
    apart = None not in (place.low, flicker.high) and place.low > flicker.high
    return [
        ("motion ratio at least 0.5", ours["motion_ratio"].text(), ours["motion_ratio"].value >= 0.5),
        ("L1 at most 1.05 of copying the first frame", f"{share:.3f}", share <= 1.05),
        ("spacetime above flicker's, intervals apart", f"{place.text()} and {flicker.text()}", apart),
        ("spacetime lost with another clip's sound above 0", lost.text(), lost.low is not None and lost.low > 0),
    ]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
parser.add_argument("--preset", default="recommended")
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--minutes", type=float, help="stop each training after so long")
parser.add_argument("--set", action="append", metavar="FIELD=VALUE")
parser.add_argument("--clips", type=int, default=48, help="of the test split that are measured, spread evenly")
parser.add_argument("--whole", action="store_true", help="print every measure with its interval")
parser.add_argument("--device", default="cpu")
media = os.environ.get("SOUNDVID_MEDIA")
parser.add_argument("--media", type=Path, default=Path(media) if media else None)
parser.add_argument("--folder", type=Path, default=Path(".cache/real"))

if __name__ == "__main__":
    main()
