"""System 3 from drawn faces to a file: built without sound, trained in three stages, resumed, measured, swiped."""

import base64
import csv
import json
import shutil
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from soundvid.builder.build import build  # noqa: E402
from soundvid.demo import faces  # noqa: E402
from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.recipe.load import load  # noqa: E402
from soundvid.recipe.model import Recipe  # noqa: E402
from soundvid.runs import train  # noqa: E402
from soundvid.runs.generate import parse_poke  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.runs.page import write_page  # noqa: E402
from soundvid.store.load import load as load_clips  # noqa: E402
from soundvid.systems.ipoke.config import VIDEO  # noqa: E402
from soundvid.systems.ipoke.data import PokeExamples  # noqa: E402
from soundvid.systems.ipoke.evaluate import warped  # noqa: E402
from soundvid.systems.ipoke.generate import sample  # noqa: E402
from tests.conftest import run as cli  # noqa: E402
from tests.helpers.training import contents  # noqa: E402
from tests.helpers.waiting import wait_for  # noqa: E402

FORMS = ("video.decoder=warp", "video.decoder_channels=[16, 16, 16]", "video.adversarial_weight=0", "encoder=flow",
         "video.latent=8", "video.flow_weight=1", "video.paint_weight=5", "video.decoded=3", "motion.form=matching",
         "motion.tune_condition=true")  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    paths = faces.make_faces(folder / "videos", persons=2, seconds=6)
    assert [p.name for p in paths] == ["anna.mp4", "boris.mp4"]
    recipe = load("face-poke", [str(folder / "videos")]).model_dump(mode="json")
    recipe["sources"] = [{"folder": str(path), "subject": path.stem} for path in paths]
    recipe["video"] |= {"crop": "centre"}
    recipe["splits"] |= {"guard_seconds": 0.2}
    recipe["clips"] |= {"seconds": 0.8}
    build(Recipe.model_validate(recipe), store=folder / "store", workers=1)
    return folder / "store"


def request(store: Path, out: Path, *values: str, **changes) -> train.Request:
    given = {"preset": "tiny", "values": values, "device": "cpu", "workers": 0, **changes}
    return train.Request("ipoke", out, "face-poke", store, **given)


@pytest.fixture(scope="module", params=["paper", "recommended"])
def run(request, store, tmp_path_factory) -> Path:
    """All three stages by one command, in the paper's form and in ours."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / request.param
    train.train(globals()["request"](store, folder, *(FORMS if request.param == "recommended" else ())))
    return folder


def test_drawn_faces_move_as_it_is_said():
    """The nose of a person is where `landmarks` says: optical flow between pictures finds the same motion."""
    shown = list(faces.frames("chidi", 2))
    where = faces.landmarks("chidi", 2)["nose"]
    moved = np.linalg.norm(where[10:] - where[:-10], axis=1)
    k = int(moved.argmax())
    assert moved[k] > 4 and shown[0].shape == (256, 256, 3)
    first, second = (cv2.cvtColor(shown[n], cv2.COLOR_RGB2GRAY) for n in (k, k + 10))
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
    x, y = np.rint(where[k]).astype(int)
    found = np.median(flow[y - 6 : y + 7, x - 6 : x + 7].reshape(-1, 2), axis=0)
    assert np.linalg.norm(found - (where[k + 10] - where[k])) < 1.5
    ground = np.abs(first.astype(int) - second)[:40, :20]  # what is behind them stands still
    assert ground.max() == 0


def test_examples_are_a_function_of_seed_epoch_and_index(store):
    clips = load_clips("face-poke", None, "train", store=store)
    config = VIDEO["tiny"].model_copy(update={"visits": 3, "mirror": True, "zero_every": 4, "size": 64})
    made = [PokeExamples(config, clips, "train") for _ in range(2)]
    assert len(made[0]) == 3 * len(clips)
    still = 0
    for index in range(len(made[0])):
        one, same, later = made[0].example(index, 0), made[1].example(index, 0), made[0].example(index, 1)
        assert all((one[name] == same[name]).all() for name in one)
        assert any((one[name] != later[name]).any() for name in one)
        assert one["frames"].shape == (5, 3, 64, 64) and one["frames"].dtype == np.uint8
        assert one["poke"].shape == one["flow"].shape == (2, 64, 64)
        if not one["flow"].any():
            still += 1
            assert (one["frames"] == one["frames"][:1]).all()
    assert 0 < still < len(made[0]) / 2
    fixed = PokeExamples(config, clips, "validation")
    assert (fixed.example(1, 0)["frames"] == fixed.example(1, 5)["frames"]).all()


def test_each_stage_goes_on_alone_and_ends_as_if_it_had_never_stopped(store, run, tmp_path):
    forms = FORMS if run.name == "recommended" else ()
    for stage in ("video", "condition", "motion"):
        short = request(store, tmp_path / "r", *forms, "steps=2", stage=stage, resume=stage != "video")
        (done,) = train.train(short)
        assert (done.stage, done.outcome.step) == (stage, 2)
        (done,) = train.train(request(store, tmp_path / "r", *forms, "steps=4", stage=stage, resume=True))
        assert done.outcome.step == 4
        if stage != "motion":  # its learning rate falls towards the last step, which was another
            one, whole = (contents(r / stage / "checkpoints" / "step-000004") for r in (tmp_path / "r", run))
            assert one.keys() == whole.keys()
            assert all(one[n] == whole[n] for n in one if n.endswith(".safetensors"))


def test_the_motion_needs_the_stages_before_it(store, tmp_path):
    with pytest.raises(SoundvidError, match="the stage 'video' has to be trained first"):
        train.train(request(store, tmp_path / "r", stage="motion"))
    with pytest.raises(SoundvidError, match="there is no stage 'flow'"):
        train.train(request(store, tmp_path / "r", stage="flow"))


def test_samples_of_a_poke(run):
    """As large as the picture, the same for a seed, one at temperature 0; what is to stay still does."""
    system = open_run(run).system
    image = next(faces.frames("anna", 1))[:200, :200]
    swipe = [(100.0, 130.0, 0.0, 20.0)]

    def made(count: int, **options) -> np.ndarray:
        return sample(system, image, swipe, count, generator=torch.Generator().manual_seed(3), **options)

    three = made(3)
    assert three.shape == (3, 5, 200, 200, 3) and three.dtype == np.uint8
    assert (three[:, 0] == image).all()
    assert (three == made(3)).all() and (three[0] != three[1]).any()
    cold = made(2, temperature=0.0)
    assert (cold[0] == cold[1]).all()
    still = np.zeros((200, 200), bool)
    still[:, :100] = True
    half = made(1, still=still)[0]
    assert (half[:, :, :95] == image[None, :, :95]).all() and (half[1:, :, 120:] != image[None, :, 120:]).any()
    several = sample(system, image, [*swipe, (60.0, 80.0, 5.0, 0.0)], 1, generator=torch.Generator().manual_seed(3))
    assert (several != three[:1]).any()


def test_a_longer_video_goes_back_and_answers_the_swipe_again(run):
    """T pictures answer, T lead back, then another sample; a shorter video is the beginning; what is still stays."""
    system = open_run(run).system
    image = next(faces.frames("anna", 1))[:120, :120]
    still = np.zeros((120, 120), bool)
    still[:60] = True

    def made(length: int | None, **options) -> np.ndarray:
        generator = torch.Generator().manual_seed(3)
        return sample(system, image, [(60.0, 80.0, 0.0, 12.0)], 2, generator=generator, length=length, **options)

    usual, long = made(None), made(11)
    assert usual.shape[1] == 5 and long.shape == (2, 12, 120, 120, 3)
    assert (long[:, :5] == usual).all() and (made(11) == long).all()
    assert (long[:, 5:9] == long[:, 3::-1]).all() and (long[:, 8] == image).all()
    assert (long[:, 9:12] != long[:, 1:4]).any(axis=(1, 2, 3, 4)).all()  # another answer
    assert (made(2) == usual[:, :3]).all() and (made(7) == long[:, :8]).all()
    cold = made(9, temperature=0.0)
    assert (cold[:, 9] == cold[:, 1]).all() and (cold[0] == cold[1]).all()
    half = made(11, still=still)
    assert (half[:, :, :54] == image[:54]).all() and (half[:, 9:, 66:] != image[66:]).any()
    for wrong in (0, 1500):
        with pytest.raises(
            SoundvidError, match=f"length {wrong}: give the number of pictures after the first, 1 to 1499"
        ):
            made(wrong)


def test_a_video_lasts_as_long_as_it_is_asked_to(run, tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), next(faces.frames("anna", 1))[..., ::-1])

    def made(*options: str) -> tuple[int, str, list[np.ndarray]]:
        target = tmp_path / "v.mp4"
        status, _, err = cli("generate", run, "--image", tmp_path / "face.png", "--poke", "128,140,0,15",
                             "--device", "cpu", "--out", target, *options)  # fmt: skip
        if status:
            return status, " ".join(err.split()), []
        with av.open(str(target)) as video:
            return status, err, [f.to_ndarray(format="rgb24").astype(int) for f in video.decode(video=0)]

    status, err, frames = made("--seconds", "0.52", "--samples", "2", "--temperature", "0")
    assert (status, len(frames)) == (0, 13) and "13 frames of 512x256, 0.52 s" in err  # 25 pictures a second
    assert np.abs(frames[0] - frames[8]).mean() < 4  # back at the picture
    short = [made("--seconds", "0.1", "--temperature", "0", "--seed", seed)[2] for seed in "12"]
    assert len(short[0]) == 2 and (short[0][1] == short[1][1]).all()  # no noise
    for seconds in ("0", "-1", "0.04", "61", "1e300", "nan"):
        status, err, _ = made("--seconds", seconds)
        assert status == 1 and "a video has 2 to 1500 pictures; with the run's 25 a second give 0.08 to 60" in err


def test_generate_writes_samples_side_by_side(run, tmp_path):
    picture = next(faces.frames("boris", 1))
    wide = np.concatenate([picture[:, :40], picture, picture[:, -20:]], axis=1)  # 316 x 256
    cv2.imwrite(str(tmp_path / "face.png"), wide[..., ::-1])
    common = ["generate", run, "--image", tmp_path / "face.png", "--device", "cpu", "--out", tmp_path / "v.mp4"]
    status, out, err = cli(*common, "--poke", "160,170,0,15", "--poke", "130,120,3,0", "--samples", "2", "--seed", "1")
    assert (status, out.strip()) == (0, str(tmp_path / "v.mp4")), err
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert not video.streams.audio
        frames = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (256, 512, 3)
    assert np.abs(frames[0][:, :256].astype(int) - wide[:, 30:286]).mean() < 4  # the square in the middle
    for bad, why in (
        ("300,10,0,5", "outside of the square"),
        ("1,2,3", "give x,y,dx,dy"),
        ("a,b,c,d", "give x,y,dx,dy"),
    ):
        status, _, err = cli(*common, "--poke", bad)
        assert status == 1 and why in " ".join(err.split())
    status, _, err = cli(*common, "--poke", "50,10,0,5", "--still", "900,0,10,10")
    assert status == 1 and "--still 900,0,10,10" in err and "a part of the square" in " ".join(err.split())
    status, _, err = cli(*common, "--poke", "10,10,0,5", "--box", "0,0,64,32")
    assert status == 1 and "give a square" in " ".join(err.split())
    assert parse_poke("1.5,2,-3,4") == (1.5, 2.0, -3.0, 4.0)


def test_a_drag_in_the_browser_is_a_poke(run, browser, tmp_path):
    """Dragged by a mouse on the page of `soundvid play`: the poke is in the picture's pixels, the video plays.

    And a part is kept still, the video is downloaded, another picture is dropped and swiped.
    """
    import uvicorn
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    from soundvid.web.guard import Guard
    from soundvid.web.player import SIDE, Player, application
    from soundvid.web.server import listen

    player, asked = Player(run, device="cpu"), []
    given = player.spec.generate
    player.spec = replace(player.spec, generate=lambda *a, **k: (asked.append(k), given(*a, **k))[1])
    server = uvicorn.Server(uvicorn.Config(Guard(application(player)), log_level="warning", lifespan="off"))
    with listen(None) as socket:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        try:
            browser.get(f"http://127.0.0.1:{socket.getsockname()[1]}/")
            wait_for(lambda: browser.find_elements("css selector", ".swipe"))
            picture = browser.find_element("css selector", ".swipe")
            drag = ActionChains(browser).move_to_element_with_offset(picture, 10, 20).click_and_hold()
            drag.move_by_offset(6, 12).move_by_offset(6, 12).release().perform()
            wait_for(lambda: browser.execute_script("return document.querySelector('video')?.readyState > 1"))
            shown = browser.execute_script("return document.querySelector('.swipe').getBoundingClientRect().width")
            ((x, y, dx, dy),) = asked[0]["poke"]
            image = next(iter(player.images.values()))
            scale = min(image.width, image.height) / shown
            wanted = (image.width / 2 + 10 * scale, image.height / 2 + 20 * scale, 12 * scale, 24 * scale)
            assert (x, y, dx, dy) == pytest.approx(wanted, abs=1.5 * scale)
            assert asked[0]["samples"] == 2 and not browser.find_elements("id", "sound")
            browser.find_element("id", "again").click()
            wait_for(lambda: len(asked) == 2)
            assert asked[1]["seed"] == 1 and asked[1]["poke"] == asked[0]["poke"]
            sides = "const v = document.querySelector('video'); return [v.videoWidth, v.videoHeight]"
            shape = browser.execute_script(sides)
            assert shape[0] == 2 * shape[1]  # two samples side by side
            assert asked[1]["still"] == []
            browser.find_element("id", "keep").click()
            box = ActionChains(browser).move_to_element_with_offset(picture, 30, 40).click_and_hold()
            box.move_by_offset(-20, -10).move_by_offset(-20, -20).release().perform()
            wait_for(lambda: len(asked) == 3)
            ((left, top, wide, high),) = asked[2]["still"]
            wanted = (image.width / 2 - 10 * scale, image.height / 2 + 10 * scale, 40 * scale, 30 * scale)
            assert (left, top, wide, high) == pytest.approx(wanted, abs=1.5 * scale + 1)
            assert asked[2]["poke"] == asked[0]["poke"]  # the swipe is there still
            wait_for(lambda: browser.find_element("id", "make").is_enabled())
            length = browser.find_element("id", "length")
            assert asked[2]["seconds"] == 0.2 and length.find_element("css selector", ":checked").text == "0.2 s"
            for _ in range(2):  # the next length, by the keyboard
                length.send_keys(Keys.ARROW_DOWN)
                wait_for(lambda: browser.find_element("id", "make").is_enabled())
            wait_for(lambda: asked[-1]["seconds"] == 2)
            lasts = "return document.querySelector('video').duration || 0"
            wait_for(lambda: abs(browser.execute_script(lasts) - 2) < 0.01)
            assert all(asked[-1][name] == asked[2][name] for name in ("poke", "still", "samples", "seed"))
            status = (
                "return (await fetch(`make?image=${chosen.image.id}&seconds=${arguments[0]}`, {method: 'POST'})).status"
            )
            assert [browser.execute_script(status, s) for s in ("10.5", "0.01", "-1", "nan", "")] == [400] * 5
            length.send_keys(Keys.HOME)
            wait_for(lambda: asked[-1]["seconds"] == 0.08)
            browser.set_window_size(400, 1600)
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
            assert length.rect["x"] + length.rect["width"] < 400
            browser.set_window_size(1280, 1600)
            wait_for(lambda: browser.find_element("id", "make").is_enabled())
            before = len(asked)
            allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
            browser.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
            browser.find_element("id", "download").click()
            wait_for((tmp_path / "soundvid.mp4").exists)
            newest = player.videos[max(player.videos)].read_bytes()
            wait_for(lambda: (tmp_path / "soundvid.mp4").read_bytes() == newest)

            other = np.concatenate([next(faces.frames("chidi", 1)), np.zeros((256, 64, 3), np.uint8)], axis=1)
            png = cv2.imencode(".png", other[..., ::-1])[1].tobytes()
            drop = """
                const file = new File([Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0))], arguments[1]);
                const data = new DataTransfer();
                data.items.add(file);
                const drop = new DragEvent('drop', {dataTransfer: data, bubbles: true});
                document.getElementById('image').dispatchEvent(drop);
            """
            browser.execute_script(drop, base64.b64encode(png).decode(), "chidi.png")
            wait_for(lambda: browser.find_elements("css selector", ".swipe img[alt='chidi.png']"))
            browser.find_element("id", "keep").click()  # off
            picture = browser.find_element("css selector", ".swipe")
            drag = ActionChains(browser).move_to_element_with_offset(picture, -10, 20).click_and_hold()
            drag.move_by_offset(0, -8).move_by_offset(0, -8).release().perform()
            wait_for(lambda: len(asked) == before + 1)
            assert asked[-1]["image"].read_bytes() == png and asked[-1]["still"] == [] and asked[-1]["seconds"] == 0.08
            ((x, y, dx, dy),) = asked[-1]["poke"]
            scale = 256 / shown
            assert (x, y, dx, dy) == pytest.approx(
                (160 - 10 * scale, 128 + 20 * scale, 0, -16 * scale), abs=1.5 * scale
            )
            for content, name in ((b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg"), (b"words", "a.txt"),
                                  (huge_png(20_000), "huge.png")):  # fmt: skip
                browser.execute_script(drop, base64.b64encode(content).decode(), name)
                wait_for(lambda name=name: f"{name}: the picture" in browser.find_element("id", "image").text)
        finally:
            browser.get("about:blank")  # a short video that plays again and again costs the other tests a processor
            server.should_exit = True
            thread.join()
            player.close()
    assert SIDE == 256 and not player.folder.exists()


def huge_png(side: int) -> bytes:
    """A PNG of `side` pixels a side that takes little room: black and white, all of it black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), bytes((1 + side // 8) * side)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(k, d) for k, d in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def test_evaluation_and_page(run):
    status, _, err = cli("evaluate", run, "--split", "val", "--clips", "3", "--json")
    assert status == 0, err
    page = write_page(run).read_text()
    for part in ("Swipes and what came of them", "The video auto-encoder over training", "warped by the poke alone",
                 "Frechet distance of whole sequences"):  # fmt: skip
        assert part in page
    assert page.count("data:video/mp4") >= 1


def altered(run: Path, target: Path, **changes) -> Path:
    """A copy of a run whose last stage says something else of itself."""
    shutil.copytree(run, target)
    path = target / "motion" / "config.json"
    record = json.loads(path.read_text())
    record["config"] |= changes.pop("config", {})
    path.write_text(json.dumps(record | changes))
    return target


def test_runs_are_rated_beside_the_clips_that_they_remake(run, tmp_path):
    """Of one person and of two, as in the paper's figure 9: the clips that none of them learnt from, the same moments,
    pokes of their true flow."""
    one = altered(run, tmp_path / "anna", config={"subjects": ["anna"], "seed": 5})  # a run's seed chooses no moment
    command = ["survey", "make", f"two persons={run}", one, "--items", "2", "--device", "cpu", "--json"]
    status, out, err = cli(*command, "--out", tmp_path / "s")
    assert status == 0, err
    made = json.loads(out)
    assert made["systems"] == ["original", "two persons", "anna"] and made["videos"] == 3
    assert made["notes"] == [
        f"{name}: the best checkpoint was chosen on clips of 'val': on others expect a little less"
        for name in ("two persons", "anna")
    ] + ["1 item is in every system, fewer than 2"]
    rows = {r["key"]: r for r in load_clips("face-poke", None, "val", store=open_run(run).config.store).rows}
    assert {rows[item]["subject"] for item in made["items"]} == {"anna"}
    shown: dict[tuple[str, str], np.ndarray] = {}
    with (tmp_path / "s" / "key.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            with av.open(str(tmp_path / "s" / "page" / "videos" / f"{line['video']}.mp4")) as video:
                frames = np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)]).astype(int)
            shown[line["system"], line["item"]] = frames
            assert "face-poke@1.0.0 val" in line["origin"]
            assert ("ipoke tiny step-" in line["origin"]) == (line["system"] != "original")
    for item in made["items"]:
        real, two, anna = (shown[name, item] for name in ("original", "two persons", "anna"))
        assert real.shape == two.shape == (5, 256, 256, 3)
        assert np.abs(real[0] - two[0]).mean() < 2 and (two == anna).all()  # one picture, one poke, one network
        assert np.abs(real[1:] - real[:1]).mean() > 0.3 and (real[1:] != two[1:]).any()
    sound = altered(run, tmp_path / "sound", system="lip_sync")
    for arguments, why in (
        ([run, sound], "a run of lip_sync needs more than a clip to make a video from"),
        ([run, "--split", "test"], "the split 'test' is empty"),
        ([run, "--no-originals"], "give at least two systems"),
    ):
        status, _, err = cli("survey", "make", *arguments, "--device", "cpu", "--out", tmp_path / "t")
        assert status == 1 and why in err and err.strip().splitlines()[-1].startswith("error"), err


def test_the_baseline_moves_the_picture_where_it_is_poked():
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8), (0, 0), 1.5)
    video = warped(picture, (30, 30, 6, 0), 11)
    assert (video[0] == picture).all() and video.shape == (11, 64, 64, 3)
    assert (video[10][30, 36] == picture[30, 30]).all() and np.abs(video[10][:5].astype(int) - picture[:5]).max() <= 4
