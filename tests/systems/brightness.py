"""A third system, for tests: the brightness of a video's frames -> how loud they are, as noise in a WAV file.

It differs from the systems of soundvid in what it takes (a video), what it makes (sound) and how it is measured, so
that general code which expects pictures, spectrograms or a `size` fails with it.
"""

from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from markupsafe import Markup
from pydantic import Field
from torch import nn

from soundvid.metrics.table import Evaluation, Measure, Row, Table
from soundvid.reports.run_page import Section
from soundvid.systems.spec import Generated, Option, Stage, SystemSpec
from soundvid.training.system import Examples, Options, System

RATE = 16000


class Config(Options):
    start: float = Field(0.0, description="the line's first slope")


PRESETS = {"tiny": Config(steps=4, batch=2, validate_every=2, log_every=1, average_decay=0.0)}


class BrightnessExamples(Examples):
    """`brightness`, `loudness` float32 `N`: of each frame of a clip, in [0, 1]."""

    def __init__(self, config, clips, purpose):
        self.clips = clips
        self.facts = {"fps": str(clips.fps_exact)}

    def __len__(self):
        return len(self.clips)

    def example(self, index, epoch):
        clip = self.clips.read(index, spectrogram=False, sound=True)
        per_frame = clip.sound[: len(clip.sound) // len(clip.frames) * len(clip.frames)].reshape(len(clip.frames), -1)
        return {
            "brightness": clip.frames.mean((1, 2, 3)).astype(np.float32) / 255,
            "loudness": (per_frame.astype(np.float32) / 32768).std(1),
        }


class Brightness(System):
    name = "brightness"

    def __init__(self, config, facts):
        self.config, self.networks = config, {"line": nn.Linear(1, 1)}
        self.call = dict(self.networks)
        self.optimizers = {"line": torch.optim.SGD(self.networks["line"].parameters(), 0.1)}
        self.tensors = {"mean": torch.zeros(1)}
        with torch.no_grad():
            self.networks["line"].weight.fill_(config.start)

    def prepare(self, examples):
        means = [examples.example(i, 0)["brightness"].mean() for i in range(len(examples))]
        self.tensors = {"mean": torch.tensor([float(np.mean(means))], device=self.device)}

    def loudness(self, brightness):
        return self.call["line"]((brightness - self.tensors["mean"])[..., None])[..., 0]

    def training_step(self, batch, step):
        loss = (self.loudness(batch["brightness"]) - batch["loudness"]).square().mean()
        return {"loss": loss.detach(), "gradient": self.update("line", loss)}

    def validation_step(self, batch):
        return {"loss": (self.loudness(batch["brightness"]) - batch["loudness"]).square().mean()}


def generate(run, target, *, video, soft=False, progress):
    with av.open(str(video)) as file:
        frames = [frame.to_ndarray(format="gray").mean() / 255 for frame in file.decode(video=0)]
    with torch.inference_mode():
        loudness = run.system.loudness(torch.tensor(frames, dtype=torch.float32)).numpy()
    fps = float(run.config.data["fps"])
    noise = np.random.default_rng(0).standard_normal(round(len(frames) * RATE / fps))
    sound = noise * np.repeat(loudness, len(noise) // len(frames) + 1)[: len(noise)] * (0.1 if soft else 1.0)
    soundfile.write(target, sound, RATE)
    progress(len(noise) / RATE, len(noise) / RATE)
    return Generated(Path(target), len(noise) / RATE, wall=0.1, notes=("this is noise",))


@torch.no_grad()
def evaluate(run, split, options):
    examples = BrightnessExamples(run.system.config, run.clips(split), "validation")
    found = [examples.example(i, 0) for i in range(len(examples))]
    made = [run.system.loudness(torch.from_numpy(e["brightness"])).numpy() for e in found]
    errors = [np.abs(m - e["loudness"]).mean() for m, e in zip(made, found, strict=True)]
    measure = Measure("loudness_error", float(np.mean(errors)), n=len(found), sources=1, better="lower")
    table = Table(f"Loudness on '{split}'", (Row("brightness", "system", (measure,)),))
    return Evaluation(split, len(found), 1, (table,))


def report(run):
    slope = run.opened.system.networks["line"].weight.item()
    return [Section("line", "Line", "The line", "What was learnt.", Markup("<p>slope {:.3f}</p>").format(slope))]


spec = SystemSpec(
    name="brightness",
    summary="video -> noise as loud as it is bright",
    presets=("tiny",),
    stages=(Stage("brightness", lambda: PRESETS, BrightnessExamples, lambda c, facts, earlier: Brightness(c, facts)),),
    inputs=(Option("video", "video", "what is turned into noise.", required=True), Option("soft", "flag", "a tenth.")),
    outputs=("sound",),
    generate=generate,
    evaluate=evaluate,
    report=report,
    train_options=(Option("slope", "integer", "the first slope.", sets="start"),),
    charts=((r"^loss$", "How far off"),),
    usage="--video film.mp4 --out noise.wav",
    default_preset="tiny",
)
