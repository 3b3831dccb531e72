"""Everything that runs on CUDA, tried and timed by one command, in under ten minutes on one H100 or H200.

    python -m benchmarks.gpu                          # all parts; writes docs/gpu.md
    python -m benchmarks.gpu --parts tests steps      # some of them; --parts alone writes the document again
    python -m benchmarks.gpu --device cpu --tiny      # without a GPU: does every part run? Its numbers mean nothing

It runs from a clone, with torch 2.11 or newer (CUDA's build) and no network. Images with PyTorch have most of what it
needs. What they often lack, and what is then to be brought as wheels, in the versions of constraints.txt: av, pydantic
with pydantic_core, annotated-types and typing-inspection, soundfile with cffi and pycparser, soxr, webdataset with
braceexpand; and opencv-python-headless where it is older than 5. Of what images usually have it uses numpy, scipy,
pyarrow, pyyaml, jinja2, rich, typer, safetensors, and for the part `tests` pytest and hypothesis; compiling needs
triton and a C compiler.

Each part runs in a process of its own, and prints as it goes; one that fails or takes too long does not end the others,
and the exit status says so. Results are appended to a JSON file; the document is made of the newest of each part and
card. What is learnt from is drawn on the spot.
"""

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import PARTS, ROOT, Part, Setting, Sheet, say
from soundvid.util.files import replace_file

DOCUMENT = ROOT / "docs" / "gpu.md"
WORK = ROOT / ".cache" / "gpu"


def child(part: Part, setting: Setting, answer: Path) -> None:
    """A part in a process and a group of its own, so that it can be ended with all that it started."""
    with suppress(OSError):
        os.setpgid(0, 0)
    import cv2
    import torch

    cv2.setNumThreads(1)
    try:
        found = {
            "card": torch.cuda.get_device_name() if setting.device == "cuda" else "CPU",
            "gigabytes": torch.cuda.get_device_properties(0).total_memory >> 30 if setting.device == "cuda" else None,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }
        answer.write_text(json.dumps(found))
        sheets = part(setting)
        if setting.device == "cuda":
            torch.cuda.synchronize()
        answer.write_text(json.dumps(found | {"sheets": [asdict(sheet) for sheet in sheets]}))
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        found = json.loads(answer.read_text()) if answer.exists() else {}
        answer.write_text(json.dumps(found | {"problem": reason}))
        sys.exit(1)


def run(name: str, part: Part, setting: Setting) -> dict[str, Any]:
    """Run a part to its end or its time; what it found, as the JSON file has it."""
    from soundvid._version import __version__

    setting.folder.mkdir(parents=True, exist_ok=True)
    answer = setting.folder / f".{name}.json"
    answer.unlink(missing_ok=True)
    began = time.monotonic()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(part, setting, answer))
    process.start()
    try:
        process.join(max(1.0, setting.until - time.monotonic()))
    finally:
        late = process.is_alive()
        if late and process.pid is not None:
            with suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
    found = json.loads(answer.read_text()) if answer.exists() else {}
    answer.unlink(missing_ok=True)
    if late:
        found["problem"] = "it was not done when the time was over"
    elif process.exitcode and "problem" not in found:
        found["problem"] = f"its process ended with {process.exitcode}"
    about = {
        "part": name,
        "tiny": setting.tiny,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "soundvid": __version__,
    }
    return about | {"card": "CPU", "torch": "", "seconds": round(time.monotonic() - began, 1)} | found


def document(results: list[dict[str, Any]]) -> str:
    """The newest result of each part and card, as Markdown."""
    newest = {(each["card"], each["part"]): each for each in results}
    text = "# On a GPU\n\nPrinted by `python -m benchmarks.gpu`; how to run it: [training.md](training.md).\n"
    for card in dict.fromkeys(card for card, _ in newest):
        of_card = [newest[card, part] for part in PARTS if (card, part) in newest]
        last = of_card[-1]
        memory = f" ({last['gigabytes']} GiB)" if last.get("gigabytes") else ""
        cuda = f", CUDA {last['cuda']}" if last.get("cuda") else ""
        dates = sorted({each["date"] for each in of_card})
        took = f"The parts took {sum(each['seconds'] for each in of_card):.0f} s."
        about = f"torch {last['torch']}{cuda}, soundvid {last['soundvid']}, {' to '.join(dates)}. {took}"
        text += f"\n## {card}{memory}\n\n{about}\n"
        if any(each["tiny"] for each in of_card):
            text += "\nA dry run at a tiny size: its numbers mean nothing.\n"
        for each in of_card:
            what = (PARTS[each["part"]].__doc__ or "").strip()
            text += f"\n### {each['part']}\n\n{what} {each['seconds']:.0f} s.\n"
            if each.get("problem"):
                text += f"\nFailed: {each['problem']}\n"
            for sheet in each.get("sheets", []):
                made = Sheet(sheet["title"], tuple(sheet["head"]), tuple(sheet["rows"]), tuple(sheet["notes"]))
                text += f"\n{made.markdown()}"
    return text


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="in this order; default: all"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="seconds a part: does it run?")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the part train; default: 5")
    parser.add_argument(
        "--limit", type=float, default=9.5, help="minutes after which nothing runs any more; default: 9.5"
    )
    parser.add_argument("--folder", type=Path, default=WORK, help="drawn videos, datasets, runs; default: .cache/gpu")
    parser.add_argument("--results", type=Path, default=WORK / "results.json", help="JSON that results are appended to")
    parser.add_argument("--out", type=Path, help="the document; default: docs/gpu.md, and none of a dry run")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = options()
    given = parser.parse_args(arguments)
    dry = given.device == "cpu"
    if dry and not given.tiny:
        parser.error("--device cpu: give --tiny as well; a CPU would take hours, and its numbers are not wanted")
    out = given.out if given.out is not None else None if dry or given.tiny else DOCUMENT
    if (dry or given.tiny) and out is not None and out.resolve() == DOCUMENT:
        parser.error(f"--out {out}: holds numbers of a GPU, at full size; give another file")
    import torch

    if not dry and given.parts and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU here; --device cpu --tiny tries the parts without one")
    results = json.loads(given.results.read_text()) if given.results.is_file() else []
    until = time.monotonic() + given.limit * 60
    setting = Setting(given.device, given.tiny, given.folder.resolve(), given.minutes, until)
    failed = []
    for name in [part for part in PARTS if part in given.parts]:
        say(f"\n== {name}: {PARTS[name].__doc__}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = run(name, PARTS[name], setting)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        say(f"== {name}: {found.get('problem', 'done')}, {found['seconds']:.0f} s ({cpu:.1f} CPU s)")
        if found.get("problem"):
            failed.append(name)
        results.append(found)
        replace_file(given.results, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    if out is not None:
        replace_file(out, document([each for each in results if each["tiny"] == given.tiny]).encode())
        say(f"\nwritten: {out}")
    say(f"{given.results}: {len(results)} results; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
