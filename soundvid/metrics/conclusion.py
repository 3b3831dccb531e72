"""What the numbers of an evaluation mean, in sentences: what the system beats, what it does not, and what follows."""

from collections.abc import Sequence

from soundvid.metrics import baselines
from soundvid.metrics.bootstrap import FEWEST
from soundvid.metrics.table import Measure, Row, number

DEAF = (baselines.COPY, baselines.OWN_MEAN, baselines.MEAN)  # baselines that do not hear the sound
MUCH = 0.9, 1.1  # motion_ratio that is called right


def outcome(difference: Measure) -> str:
    """better, worse, even (the interval holds 0) or unknown (none): a paired difference by its measure's direction."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "unknown"
    if difference.low <= 0 <= difference.high:
        return "even"
    return "better" if (difference.value > 0) == (difference.better == "higher") else "worse"


def conclude(system: Row, differences: Sequence[Row], swapped: Row | None = None) -> list[str]:
    """Sentences for a system's row, its paired differences from the baselines, and its row of the swapped sound."""
    found = []
    for key, what in (("l1", "Pictures (l1)"), ("spacetime", "Motion in place and time (spacetime)")):
        rows = {row.name: outcome(row[key]) for row in differences}
        if rows and system[key].value is not None:
            found.append(f"{what}: {compared(system[key], rows)} {_meaning(key, rows)}".rstrip())
    found += _amount(system) + _listening(swapped)
    if any(0 < m.sources < FEWEST for m in system.measures):
        found.append(f"Measured on fewer than {FEWEST} videos: no difference here can be distinguished from chance.")
    return found


def compared(measure: Measure, outcomes: dict[str, str]) -> str:
    """A system's value and how it compares, with the outcome against each baseline by its name: one sentence."""
    parts = {
        "better than {}": _named(outcomes, "better"),
        "worse than {}": _named(outcomes, "worse"),
        "not distinguishable from {}": _named(outcomes, "even"),
        "too few videos to compare it with {}": _named(outcomes, "unknown"),
    }
    said = "; ".join(text.format(_listed(names)) for text, names in parts.items() if names)
    value = measure.text() if measure.value is None or measure.low is not None else number(measure.value)
    return f"{value}: {said}."


def _meaning(key: str, rows: dict[str, str]) -> str:
    """What follows of the outcomes against each baseline."""
    if "unknown" in rows.values():
        return ""
    missed = [name for name, seen in rows.items() if seen != "better"]
    if not missed:
        return "It is ahead of every baseline."
    if key == "l1" and baselines.COPY in missed:
        return "Repeating the input picture is as near to the real video: nothing useful is shown to be learnt."
    if set(missed) <= {baselines.OWN_MEAN}:
        return "Only the mean of the very video that is measured, which no system can know, is not beaten."
    if set(missed) & set(DEAF):
        return "A still picture does as well: the motion it adds is not yet where the real one is."
    if baselines.FLICKER in missed:
        return "A picture that flickers does as well: it is not shown to move with its sound."
    named = _listed(missed)
    return f"{named[0].upper()}{named[1:]}: no network is needed to do as well. Train longer, or on more videos."


def _amount(system: Row) -> list[str]:
    ratio = next((m for m in system.measures if m.name == "motion_ratio"), None)
    if ratio is None or ratio.value is None:
        return []
    low, high = MUCH
    much = "too little" if ratio.value < low else "too much" if ratio.value > high else "as much as the real clips"
    why = " (a blurred best guess moves too little)" if ratio.value < low else ""
    return [f"It moves {much}: {number(ratio.value)} of the real motion{why}."]


def _listening(swapped: Row | None) -> list[str]:
    names = {m.name: m for m in swapped.measures} if swapped is not None else {}
    lost = names.get("spacetime_lost")
    if lost is None or lost.value is None:
        return []
    if lost.low is None or lost.high is None:
        return [f"With another clip's sound spacetime falls by {number(lost.value)}; too few videos to say more."]
    if lost.low > 0:
        return [f"It follows its sound: with another clip's, spacetime falls by {lost.text()}."]
    return [f"It is not shown to follow its sound: with another clip's, spacetime falls by {lost.text()}."]


def _named(rows: dict[str, str], outcome: str) -> list[str]:
    return [name for name, seen in rows.items() if seen == outcome]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
