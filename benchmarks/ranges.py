"""Bytes downloaded for a span of a long video, compared with the whole file, over HTTP on loopback.

python -m benchmarks.ranges [--minutes 20] [--span 2]
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from soundvid.recipe.model import Recipe
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.sync import sync

PICTURES = ["-f", "lavfi", "-i", "testsrc2=s=480x360:r=30:d=60,noise=alls=8:allf=t"]
SOUND = ["-f", "lavfi", "-i", "anoisesrc=d=60:r=44100:a=0.3"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", "400k", "-g", "150", "-bf", "2", "-c:a", "aac", "-b:a", "96k"]
VP8 = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k", "-g", "150", "-c:a", "libopus"]
FILMS = {
    "index-in-front.mp4": (X264, ["-movflags", "+faststart"]),
    "index-at-the-end.mp4": (X264, []),
    "matroska.mkv": (X264, []),
    "opus.webm": (VP8, []),
}


def make(folder: Path, name: str, minutes: int) -> None:
    """A video of `minutes`: one minute is encoded and repeated."""
    import imageio_ffmpeg

    codecs, options = FILMS[name]
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    minute = folder / f"minute-{name}"
    if not minute.exists():
        subprocess.run([*ffmpeg, *PICTURES, *SOUND, *codecs, str(minute)], check=True)
    repeat = ["-stream_loop", str(minutes - 1), "-i", str(minute), "-c", "copy", *options]
    subprocess.run([*ffmpeg, *repeat, str(folder / name)], check=True)
    minute.unlink()


def main() -> None:
    from tests.helpers.webserver import WebServer

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--span", type=float, default=2.0, help="seconds")
    wanted = parser.parse_args()
    start = wanted.minutes * 60 * 0.6
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        films = folder / "films"
        films.mkdir()
        print(f"a span of {wanted.span:g} s out of {wanted.minutes} minutes")
        for name in FILMS:
            make(films, name, wanted.minutes)
            with WebServer(films) as web:
                row = {"url": f"{web.url}/v/{name}", "start": start, "stop": start + wanted.span}
                (folder / "list.jsonl").write_text(json.dumps(row) + "\n")
                recipe = Recipe.model_validate(
                    {
                        "name": "ranges",
                        "sources": [{"list": str(folder / "list.jsonl"), "licence": "own"}],
                        "clips": {"plan": "spans"},
                        "download": {"allow_private_addresses": True, "sleep_between": 0},
                    }
                )
                begun = time.monotonic()
                sync(folder / name, recipe)
                wall = time.monotonic() - begun
                with Catalogue(folder / name) as catalogue:
                    (entry,) = catalogue.entries()
                size, sent = (films / name).stat().st_size, web.sent[name]
                how = "sparse" if entry.available_spans else "whole"
                print(
                    f"{name:22s} {size / 1e6:7.1f} MB   {how:6s} {sent / 1e6:6.2f} MB   share {sent / size:.4f}   "
                    f"{len(web.asked):3d} requests   wall {wall:4.1f} s"
                )
            (films / name).unlink()


if __name__ == "__main__":
    main()
