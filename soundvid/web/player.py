"""`soundvid play`: a trained run in the browser: choose or drop a picture, and see it move.

For systems that make a video of a picture and a sound (it moves with the sound) or of a picture and swipes (dragged on
it). What the browser sends is kept in a temporary folder, checked
as `soundvid generate` checks its files, and only what this page made or was given is served.
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from soundvid.errors import SoundvidError
from soundvid.media.clip_codec import decode_flac
from soundvid.media.encode import encode_jpeg
from soundvid.media.image import read_full_image, square
from soundvid.media.sound_reader import SoundReader
from soundvid.reports.figures import THUMBNAIL_WAVE, data_uri, waveform
from soundvid.runs.generate import expectations
from soundvid.runs.open import Which, choose_device, open_run
from soundvid.runs.registry import get
from soundvid.store.load import View
from soundvid.systems.sound_input import open_sound
from soundvid.web.responses import FOLDER, http_error, ranged, refused, send_file
from soundvid.web.server import HEADERS

FILES = {
    "/": (FOLDER / "player.html", "text/html"),
    "/player.js": (FOLDER / "player.js", "text/javascript"),
    "/player.css": (FOLDER / "player.css", "text/css"),
    "/style.css": (FOLDER.parent / "reports" / "style.css", "text/css"),
}
MOST_BYTES = 64 << 20  # of a picture or a sound that is sent
MOST_SECONDS = 60.0  # of a sound: longer ones are for the command line
MOST_SAMPLES = 4  # videos of one swipe, side by side
LENGTHS = (1.0, 2.0, 4.0, 8.0)  # seconds of a swipe's video that are offered, besides one answer and half of it
MOST_SWIPED = 10.0  # seconds of a swipe's video: longer ones are for the command line
KEPT = 20  # videos that are kept
EXAMPLES = 6  # clips of the run's dataset to begin with
SIDE = 256  # pixels of the pictures that are shown


Four = tuple[float, float, float, float]  # a swipe (x, y, dx, dy) or a box (x, y, width, height)


@dataclass(frozen=True)
class Picture:
    """A picture that was given: its file, and its size in pixels."""

    path: Path
    width: int
    height: int

    def whole(self, shown: Four) -> Four:
        """A swipe or a box on the centred square, shown SIDE pixels a side, in pixels of the whole picture."""
        side = min(self.width, self.height)
        x, y, dx, dy = (v * side / SIDE for v in shown)
        return x + (self.width - side) // 2, y + (self.height - side) // 2, dx, dy


class Player:
    """A run, and what was sent and made. Raises SoundvidError where the run cannot be opened or takes other inputs."""

    def __init__(self, path: Path, which: Which = "best", device: str = "auto") -> None:
        self.run = open_run(path, which, device=str(choose_device(device)))
        self.spec = get(self.run.config.system)
        kinds = {option.kind for option in self.spec.inputs if option.required}
        self.swipes = kinds == {"image"} and any(option.kind == "pokes" for option in self.spec.inputs)
        if "video" not in self.spec.outputs or not (self.swipes or kinds == {"image", "sound"}):
            raise SoundvidError(
                f"{path}: {self.spec.name} does not make a video of a picture and a sound, nor of a picture that is "
                "swiped; use 'soundvid generate'"
            )
        self.path = path
        self.folder = Path(tempfile.mkdtemp(prefix="soundvid-play-"))
        self.images: dict[int, Picture] = {}
        self.sounds: dict[int, Path] = {}
        self.videos: dict[int, Path] = {}
        self._numbers = count()
        self._making = threading.Lock()
        self.examples = self._examples()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _examples(self) -> list[dict[str, Any]]:
        """Held-out clips as pictures and sounds to begin with; none where the dataset is gone."""
        for split in ("test", self.run.config.splits.get("validation", "val"), "train"):
            try:
                clips = self.run.clips(split)
            except SoundvidError:
                continue
            chosen = sorted({i * len(clips) // EXAMPLES for i in range(EXAMPLES)})
            found = []
            for i in chosen:
                row = clips.rows[i]
                whole = View([0], (0, 0, row["width"], row["height"]), (row["height"], row["width"]))
                image, sound = self._new("jpg"), self._new("flac")
                image.write_bytes(encode_jpeg(clips.read(i, whole, spectrogram=False).frames[0], 2))
                name = f"{row['subject']} · {row['source_name']} at {row['start_seconds']:.1f} s"
                example = {"name": name, "image": self.add_image(image)}
                if not self.swipes:
                    sound.write_bytes(clips.member(i, "flac"))
                    example["sound"] = self.add_sound(sound)
                found.append(example)
            return found
        return []

    def about(self) -> dict[str, Any]:
        config = self.run.config
        return {
            "name": self.path.resolve().name,
            "system": config.system.replace("_", " "),
            "preset": config.preset,
            "step": self.run.step,
            "dataset": f"{config.dataset}@{config.version}",
            "notes": expectations(self.run, {}),
            "examples": self.examples,
            "seconds": MOST_SECONDS,
            "swipes": self.swipes,
            "lengths": self._lengths() if self.swipes else {},
            "side": SIDE,
        }

    def _lengths(self) -> dict[str, Any]:
        """Seconds of a swipe's video: `usual`, those of one answer, and those `offered`, from half of it on."""
        system: Any = self.run.system
        fps, pictures = Fraction(self.run.config.data["fps"]), 1 + system.config.frames
        answer = float(pictures / fps)
        half = float(max(2, round(pictures / 2)) / fps)
        longer = [seconds for seconds in LENGTHS if seconds > 1.25 * answer]
        return {"usual": answer, "offered": sorted({half, answer, *longer})}

    def _new(self, ending: str = "bin") -> Path:
        return self.folder / f"{next(self._numbers)}.{ending}"

    def receive(self, data: bytes) -> Path:
        path = self._new()
        path.write_bytes(data)
        return path

    def add_image(self, path: Path) -> dict[str, Any]:
        """A picture that is there to be chosen: its number, and how it looks. Raises SoundvidError."""
        whole = _named(lambda: read_full_image(path), path, "the picture")
        shown = square(whole, SIDE)
        number = next(self._numbers)
        self.images[number] = Picture(path, *whole.shape[1::-1])
        return {"id": number, "picture": data_uri("image/jpeg", encode_jpeg(shown, 3))}

    def add_sound(self, path: Path) -> dict[str, Any]:
        """A sound that is there to be chosen: its number, seconds and waveform. Raises SoundvidError."""
        track = _named(lambda: open_sound(path), path, "the sound")
        seconds = float(track.duration)
        if seconds > MOST_SECONDS:
            raise SoundvidError(
                f"the sound lasts {seconds:.0f} s and this page takes {MOST_SECONDS:.0f} s: cut it, or use "
                "'soundvid generate'"
            )
        if path.suffix == ".flac":
            samples = decode_flac(path.read_bytes())[0]
        else:
            reader = SoundReader(track, 8000)
            samples = (reader.read(0, int(seconds * 8000)).samples * 32767).astype("int16")
            reader.close()
        number = next(self._numbers)
        self.sounds[number] = path
        return {"id": number, "seconds": seconds, "wave": waveform(samples, THUMBNAIL_WAVE)}

    def make(
        self,
        image: int,
        sound: int,
        pokes: list[Four],
        still: list[Four],
        samples: int,
        seed: int,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """The video of a picture and a sound, or of swipes: its number, seconds, and what one should know of it.

        `pokes` are (x, y, dx, dy) and `still` boxes (x, y, width, height) that do not move, in pixels of the square
        that is shown, SIDE a side. The video of swipes lasts `seconds`; that of a sound as long as the sound.
        """
        if self.swipes and seconds is not None and seconds > (most := max(MOST_SWIPED, self._lengths()["usual"])):
            raise SoundvidError(f"a video of {seconds:g} s: this page makes up to {most:g} s; use 'soundvid generate'")
        if not self._making.acquire(blocking=False):
            raise SoundvidError("another video is being made: wait until it is done")
        try:
            target = self._new("mp4")
            picture = self.images[image]
            inputs: dict[str, Any] = {"image": picture.path}
            if self.swipes:
                boxes = [tuple(round(v) for v in picture.whole(box)) for box in still]
                inputs |= {"poke": [picture.whole(p) for p in pokes], "still": boxes, "samples": samples, "seed": seed}
                inputs |= {} if seconds is None else {"seconds": seconds}
            else:
                inputs["sound"] = self.sounds[sound]
                inputs |= {"size": SIDE} if any(option.name == "size" for option in self.spec.inputs) else {}
            expected = expectations(self.run, inputs)
            made = _named(lambda: self.spec.generate(self.run, target, **inputs), target, "the video")
            notes = [n.replace(str(picture.path), "the picture").replace(str(inputs.get("sound")), "the sound")
                     for n in (*made.notes, *expected)]  # fmt: skip
        finally:
            self._making.release()
        number = next(self._numbers)
        self.videos[number] = target
        while len(self.videos) > KEPT:
            self.videos.pop(next(iter(self.videos))).unlink(missing_ok=True)
        return {"id": number, "seconds": made.seconds, "work_seconds": made.wall, "notes": notes}


def _named(call: Callable[[], Any], path: Path, name: str) -> Any:
    """What `call` gives; where it is refused, a line that names no file of this machine and no option."""
    try:
        return call()
    except SoundvidError as error:
        text = str(error).replace(str(path), name)
        raise SoundvidError(re.sub(r"; give --.*", "; choose another file", text)) from error


def application(player: Player) -> Starlette:
    """The page of a run and what it asks for."""

    def answered(value: Any) -> Response:
        return JSONResponse(value, headers=HEADERS)

    async def about(request: Request) -> Response:
        return answered(await run_in_threadpool(player.about))

    def receiving(add: Callable[[Path], dict[str, Any]]) -> Callable[[Request], Any]:
        async def receive(request: Request) -> Response:
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
                if len(data) > MOST_BYTES:
                    return refused(f"more than {MOST_BYTES >> 20} MiB: give a smaller file", 413)
            path = player.receive(bytes(data))
            try:
                return answered(await run_in_threadpool(add, path))
            except SoundvidError as error:
                path.unlink(missing_ok=True)
                return refused(str(error), 400)

        return receive

    async def make(request: Request) -> Response:
        asked = request.query_params
        image, sound, samples, seed = (_number(asked.get(n, "")) for n in ("image", "sound", "samples", "seed"))
        if image not in player.images or (sound not in player.sounds and not player.swipes):
            return refused("choose a picture and a sound first", 404)
        try:
            pokes, still = ([_four(text) for text in asked.getlist(name)] for name in ("poke", "still"))
            samples = min(max(samples, 1), MOST_SAMPLES)
            seconds = _seconds(asked["seconds"]) if "seconds" in asked else None
            arguments = image, sound, pokes, still, samples, max(seed, 0), seconds
            return answered(await run_in_threadpool(player.make, *arguments))
        except SoundvidError as error:
            return refused(str(error), 400)

    def video(request: Request) -> Response:
        path = player.videos.get(_number(request.path_params["number"]))
        if path is None:
            raise HTTPException(404, "there is no such video (any more)")
        response = ranged(request, path.read_bytes(), "video/mp4")
        response.headers.update(HEADERS)
        return response

    routes = [Route(url, send_file(*file)) for url, file in FILES.items()]
    routes += [
        Route("/about", about),
        Route("/image", receiving(player.add_image), methods=["POST"]),
        Route("/sound", receiving(player.add_sound), methods=["POST"]),
        Route("/make", make, methods=["POST"]),
        Route("/video/{number}.mp4", video),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: http_error})


def _four(text: str) -> Four:
    """`x,y,dx,dy`. Raises SoundvidError."""
    try:
        x, y, dx, dy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SoundvidError(f"a swipe or a box is four numbers, not {text[:80]!r}") from error
    if not all(isfinite(v) for v in (x, y, dx, dy)):
        raise SoundvidError(f"a swipe or a box is four numbers, not {text[:80]!r}")
    return x, y, dx, dy


def _seconds(text: str) -> float:
    """Raises SoundvidError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise SoundvidError(f"a length is a number of seconds, not {text[:80]!r}")
    return seconds


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
