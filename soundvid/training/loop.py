"""The loop: one for every system, on a CPU, a GPU or several.

A step is a batch, `System.training_step`, and the moving averages. Around it, by the step's number: a line of the log,
validation, a preview, a checkpoint. Everything that decides what a step does is a function of the step or is in
the checkpoint, so that a stopped or killed run goes on as if nothing had happened.
"""

import copy
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soundvid.errors import SoundvidError
from soundvid.training import checkpoint, distributed, preview
from soundvid.training.dataloader import batches, stack, to_device
from soundvid.training.log import Log, Numbers, TrainingCallback
from soundvid.training.run import RunFolder
from soundvid.training.sampler import ShuffledSampler
from soundvid.training.system import (
    Batch,
    Examples,
    Metrics,
    Options,
    Ratio,
    System,
    average_,
    buffers,
    divided,
)

RANK_SEED = 100_000  # between the seeds of processes


class TrainingError(SoundvidError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `reason` is steps, minutes, patience or stopped (by a signal)."""

    step: int
    reason: str
    best: float | None
    seconds: float


@dataclass
class Progress:
    """The progress of a run, as its checkpoints keep it."""

    step: int = 0
    best: float | None = None  # of the metric that the system monitors; lower is better
    best_step: int | None = None
    stale: int = 0  # validations since the best one
    done: bool = False
    flops: int | None = None  # of a step, on each device
    history: list[float] = field(default_factory=list)  # the monitored metric at each validation
    monitor: str = ""  # its name; empty: not known, or nothing was validated yet


def progress_of(state: dict[str, Any], where: Path) -> Progress:
    """Progress of a checkpoint's state. Raises CheckpointError, one line, where it is not one of this soundvid's."""
    try:
        progress = Progress(**state["progress"])
    except TypeError as error:
        raise checkpoint.CheckpointError(f"{where / 'state.json'}: not the progress of a run ({error})") from error
    if progress.step != state["step"]:
        raise checkpoint.CheckpointError(
            f"{where / 'state.json'}: its progress is at step {progress.step}, the checkpoint is of {state['step']}"
        )
    return progress


def resumable(folder: RunFolder, config: Options, world: int) -> tuple[Path, dict[str, Any], Progress]:
    """The newest checkpoint, its state and its progress. Raises CheckpointError where `world` and `config` do not fit.

    A stage that was trained to the end may be asked for fewer steps: nothing is left to be done.
    """
    path = checkpoint.resolve(folder.checkpoints, "last")
    state = checkpoint.read_state(path)
    progress = progress_of(state, path)
    if progress.done and progress.step >= config.steps:
        return path, state, progress
    if state["world"] != world:
        raise checkpoint.CheckpointError(
            f"{path}: it was trained by {state['world']} processes (world size), this is {world}; "
            "start the same number to resume it"
        )
    if progress.step > config.steps:
        raise checkpoint.CheckpointError(
            f"{path}: it is at step {progress.step} already, past the {config.steps} that are asked for; "
            "ask for more steps, or name another folder"
        )
    return path, state, progress


class Loop:
    """Trains one stage in its folder. `world` processes run the same loop, each with its own batches.

    `load` makes everything ready and writes nothing, so that what cannot be resumed stays as it was; then `run`.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Options,
        system: System,
        train: Examples,
        validation: Examples | None,
        *,
        device: torch.device,
        workers: int = 1,
        minutes: float | None = None,
        rank: int = 0,
        world: int = 1,
        callback: TrainingCallback | None = None,
    ) -> None:
        self.folder, self.config, self.system = folder, config, system
        self.train, self.validation = train, validation
        self.device, self.workers, self.minutes = device, workers, minutes
        self.rank, self.world = rank, world
        self.callback = callback or TrainingCallback()
        self.progress = Progress()
        self.resumed = False
        self.averages: dict[str, nn.Module] = {}
        self.log: Log | None = None
        self.check_every = 1 if device.type == "cpu" else config.log_every  # looking for NaN waits for the GPU
        self.alarms: list[str] = []  # of the last line of the log: one that persists is reported once
        self.validation_batches: list[Batch] | None = None
        self.low_precision = {"auto": device.type == "cuda", "bfloat16": True, "float32": False}[config.precision]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.low_precision)

    def run(self) -> Outcome:
        """Train to the end, or until stopped; the folder then holds a checkpoint of the last step."""
        began = time.monotonic()
        config = self.config
        self._begin()
        progress = self.progress
        self.callback.stage(self.system.name, progress.step, config.steps)
        sampler = ShuffledSampler(len(self.train), config.batch, config.seed, self.rank, self.world)
        meter = Meter(config.batch * self.world, progress)
        reason = "patience" if self._patience_is_over() else "steps"
        with (
            stop_signals() as stop,
            batches(
                self.train, sampler, progress.step, config.steps, workers=self.workers, device=self.device
            ) as dataloader,
        ):  # fmt: skip
            while progress.step < config.steps and reason == "steps":
                meter.waits()
                batch = to_device(next(dataloader), self.device)
                meter.works()
                if progress.flops is None:
                    progress.flops = self._count(batch)
                metrics = self._step(batch)
                progress.step += 1
                meter.add(metrics)
                late = self.minutes is not None and time.monotonic() - began > self.minutes * 60
                stopped, late = (distributed.any_of(flag, self.device) for flag in (bool(stop), late))
                reason = "stopped" if stopped else "minutes" if late else reason
                last = progress.step == config.steps or reason != "steps"
                # Nothing is validated or saved that was not checked.
                due = progress.step % config.checkpoint_every == 0 or progress.step % config.validate_every == 0
                if meter.steps >= self.check_every or last or due:
                    self._stop_if_not_finite(meter, batch)
                if progress.step % config.log_every == 0 or last:
                    self._write_log(meter, began)
                better = False
                if progress.step % config.validate_every == 0 or (last and reason != "stopped"):
                    better = self._validate()
                    if self._patience_is_over():
                        reason, last = "patience", True
                if progress.step % config.sample_every == 0 or (last and reason != "stopped"):
                    self._preview()
                if progress.step % config.checkpoint_every == 0 or last or better:
                    progress.done = last and reason != "stopped"
                    self.save()
        if self.log is not None:
            self.log.write("note", progress.step, {"ended": reason})
            self.log.close()
        return Outcome(progress.step, reason, progress.best, time.monotonic() - began)

    # -- steps

    def _step(self, batch: Batch) -> Metrics:
        with self.autocast:
            metrics = self.system.training_step(batch, self.progress.step)
        distributed.broadcast(buffers(self.system.networks.values()))
        if self.averages:
            # A young average forgets quickly, or it would stay what chance began with.
            decay = min(self.config.average_decay, (1 + self.progress.step) / (10 + self.progress.step))
            for name, average in self.averages.items():
                average_(average, self.system.networks[name], decay)
        return metrics

    def _count(self, batch: Batch) -> int:
        """Floating-point operations of a step, forward and backward, counted on a copy that is thrown away.

        The counter takes operations apart, which rounds differently: a step of the run itself must not be counted.
        """
        from torch.utils.flop_counter import FlopCounterMode

        random, call = checkpoint.random_state(), self.system.call
        self.system.call = dict(self.system.networks)  # as they are, not compiled
        system = copy.deepcopy(self.system)
        self.system.call = call
        with self.autocast, FlopCounterMode(display=False) as counter:
            system.training_step(batch, self.progress.step)
        checkpoint.set_random_state(*random)
        return counter.get_total_flops()

    # -- before and after

    def load(self, *, resume: bool) -> None:
        """Begin anew, or at the newest checkpoint; nothing is written. Raises CheckpointError, one line."""
        config = self.config
        self.system.to(self.device)
        if config.channels_last == "yes" or (config.channels_last == "auto" and self.device.type == "cuda"):
            to_channels_last(self.system.networks.values())
        if config.average_decay > 0:
            self.averages = {n: copy.deepcopy(self.system.networks[n]).eval() for n in self.system.averaged}
            for average in self.averages.values():
                average.requires_grad_(False)
        seed_everything(config.seed + RANK_SEED * self.rank)
        distributed.barrier()
        if resume:
            self._resume()
        else:
            self.system.prepare(self.train)
            distributed.broadcast([p for net in self.system.networks.values() for p in net.parameters()])
            distributed.broadcast(buffers(self.system.networks.values()))
            distributed.broadcast(list(self.system.tensors.values()))
        self.resumed = resume

    def _begin(self) -> None:
        self.system.train()
        if self.config.compile:
            self.system.call = {name: torch.compile(net) for name, net in self.system.networks.items()}  # type: ignore[misc]
        if self.rank == 0:
            checkpoint.clean(self.folder.checkpoints)
            self.log = Log(self.folder.log_path, self.folder.path / "tensorboard", self.progress.step)
            if self.resumed:
                self.log.write("note", self.progress.step, {"resumed": True})
            for text in self.system.warnings:
                if not self.resumed:
                    self.log.write("alarm", self.progress.step, {"text": text})
                self.callback.say(text)
        distributed.barrier()  # none puts its random states where the first one is still removing

    def _resume(self) -> None:
        path, state, self.progress = resumable(self.folder, self.config, self.world)
        checkpoint.load_networks(self.system.networks, checkpoint.read_tensors(path / "networks.safetensors"), path)
        if self.averages:
            checkpoint.load_networks(self.averages, checkpoint.read_tensors(path / "average.safetensors"), path)
        optimizers = checkpoint.read_tensors(path / "optimizers.safetensors")
        checkpoint.load_optimizers(self.system.optimizers, optimizers, state["groups"], path)
        if len(optimizers) != state.get("moments", len(optimizers)):  # a parameter without its state would begin anew
            raise checkpoint.CheckpointError(
                f"{path / 'optimizers.safetensors'}: {len(optimizers)} tensors; {state['moments']} were written"
            )
        checkpoint.load_system_state(self.system, state["system"], path)
        checkpoint.load_random(path, self.rank)

    def save(self) -> None:
        """A checkpoint of this step, by all processes together."""
        folder, step = self.folder.checkpoints, self.progress.step
        checkpoint.save_random(folder, step, self.rank)
        distributed.barrier()
        if self.rank == 0:
            files, state = checkpoint.system_files(self.system, self.averages)
            checkpoint.write(folder, step, files, {**state, "world": self.world, "progress": vars(self.progress)})
            checkpoint.set_pointer(folder, "last", checkpoint.folder_name(step))
            best = None if self.progress.best_step is None else checkpoint.folder_name(self.progress.best_step)
            if best is not None:
                checkpoint.set_pointer(folder, "best", best)
            checkpoint.prune(folder, self.config.keep, best)
        distributed.barrier()

    # -- measuring

    def _write_log(self, meter: "Meter", began: float) -> None:
        """A line of the log; alarms, where the system raises any."""
        numbers = meter.read()  # by all processes together
        if self.rank != 0 or self.log is None:
            return
        step = self.progress.step
        left = (self.config.steps - step) * numbers["step_seconds"]
        if self.minutes is not None:
            left = min(left, max(0.0, self.minutes * 60 - (time.monotonic() - began)))
        self.log.write("train", step, numbers)
        self.callback.step(step, numbers, left)
        alarms = self.system.alarms(numbers)
        for alarm in alarms:
            self.log.write("alarm", step, {"text": alarm})
            if alarm not in self.alarms:
                self.callback.say(f"step {step}: {alarm}")
        self.alarms = alarms

    def _validation_batches(self) -> list[Batch]:
        """Made once: clips spread evenly over the split, as they are in epoch 0."""
        if self.validation_batches is None:
            there = len(self.validation) if self.validation is not None else 0
            count = min(self.config.validation_clips, there)
            places = [i * there // count for i in range(count)]
            examples = [self.validation.example(i, 0) for i in places] if self.validation is not None else []
            size = self.config.batch
            self.validation_batches = [stack(examples[i : i + size]) for i in range(0, count, size)]
        return self.validation_batches

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Averaged networks, eval mode, no gradients, a fixed random state; all as it was afterwards."""
        system, random = self.system, checkpoint.random_state()
        networks, call = system.networks, system.call
        system.networks = {**networks, **self.averages}
        system.call = {**call, **self.averages}
        system.eval()
        seed_everything(self.config.seed)
        try:
            with torch.no_grad(), self.autocast:
                yield
        finally:
            system.networks, system.call = networks, call
            system.train()
            checkpoint.set_random_state(*random)

    def _validate(self) -> bool:
        """Measure validation clips; True where they were never better. The first process decides for all."""
        if self.validation is None:
            return False
        numbers: Numbers = {}
        if self.rank == 0:
            above: dict[str, float] = defaultdict(float)
            below: dict[str, float] = defaultdict(float)
            with self._evaluating():
                for batch in self._validation_batches():
                    size = len(next(iter(batch.values())))
                    for name, metric in self.system.validation_step(to_device(batch, self.device)).items():
                        above[name] += float(metric.above) if isinstance(metric, Ratio) else float(metric) * size
                        below[name] += float(metric.below) if isinstance(metric, Ratio) else size
            numbers = {name: divided(total, below[name]) for name, total in above.items()}
        numbers = distributed.broadcast_object(numbers)
        self.system.validated(numbers)
        value = numbers[self.system.monitor]
        progress = self.progress
        if progress.monitor != self.system.monitor:  # a version of before chose by another one: values do not compare
            progress.monitor, progress.best, progress.stale, progress.history = self.system.monitor, None, 0, []
        better = math.isfinite(value) and (progress.best is None or value < progress.best)
        progress.history.append(value)
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best, progress.best_step = value, progress.step
        if self.log is not None:
            self.log.write("validation", progress.step, numbers)
            self.callback.validated(progress.step, numbers, better)
        return better

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= self.progress.stale

    def _preview(self) -> None:
        """The preview grid of the first validation clips."""
        if self.rank != 0 or self.validation is None:
            return
        batch = self._validation_batches()[0]
        with self._evaluating():
            rows = self.system.preview(to_device(batch, self.device))
        if not rows:
            return
        picture = preview.grid(rows, batch.get("sound"))
        preview.save(self.folder.previews / f"{checkpoint.folder_name(self.progress.step)}.png", picture)
        if self.log is not None:
            self.log.picture(self.progress.step, picture)

    def _stop_if_not_finite(self, meter: "Meter", batch: Batch) -> None:
        """A NaN stops the run, and leaves what led to it; the last checkpoint is from before it."""
        wrong = meter.not_finite()
        if not distributed.any_of(bool(wrong), self.device):
            return
        dump = self.folder.path / f"nan-{checkpoint.folder_name(self.progress.step)}"
        if wrong:
            dump.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous().cpu() for k, v in batch.items()}, dump / f"batch-{self.rank}.safetensors")
            weights = checkpoint.flatten(self.system.networks)  # channels last, maybe: safetensors takes none such
            save_file({k: v.contiguous().cpu() for k, v in weights.items()}, dump / f"networks-{self.rank}.safetensors")
            (dump / f"metrics-{self.rank}.json").write_text(json.dumps(meter.last(), indent=1), encoding="utf-8")
        text = f"step {self.progress.step}: {', '.join(wrong) or 'a number of another process'} is no longer finite"
        if self.log is not None:
            self.log.write("alarm", self.progress.step, {"text": text})
        raise TrainingError(f"{text}; the batch and the networks are in {dump}; {self._advice(batch)}")

    def _advice(self, batch: Batch) -> str:
        """What can be done about a NaN. Resuming cannot help: the same steps are made again, with the same rates."""
        broken = [k for k, v in batch.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if broken:
            return (
                f"the data itself is not finite ({', '.join(broken)}): look for the clip with 'soundvid verify "
                "--decode', and build the dataset anew"
            )
        values = self.config.model_dump()
        changes = []
        if "learning_rate" in values:
            changes.append(f"a lower learning rate (--set learning_rate={values['learning_rate'] / 4:g})")
        if values.get("clip", 0) is None:
            changes.append("a limit to the gradient (--set clip=1)")
        if self.low_precision:
            changes.append("full precision (--set precision=float32)")
        return (
            "--resume would come to the same numbers again: train in another folder with "
            f"{' or '.join(changes) or 'other settings'}"
        )


class Meter:
    """Metrics over steps and processes, and where the time goes. Reading one waits for the device, so few are read."""

    def __init__(self, clips: int, progress: Progress) -> None:
        self.clips, self.progress = clips, progress  # clips of a step, over all processes
        self.above: dict[str, Tensor] = {}  # a mean is a sum over a count of steps, a Ratio a sum over a sum
        self.below: dict[str, Tensor | int] = {}
        self.newest: Metrics = {}
        self.steps = 0
        self.waiting = self.working = 0.0
        self.mark = time.perf_counter()

    def waits(self) -> None:
        self._lap("working")

    def works(self) -> None:
        self._lap("waiting")

    def _lap(self, what: str) -> None:
        now = time.perf_counter()
        setattr(self, what, getattr(self, what) + now - self.mark)
        self.mark = now

    def add(self, metrics: Metrics) -> None:
        self.newest = metrics
        self.steps += 1
        for name, value in metrics.items():
            above = (value.above if isinstance(value, Ratio) else value).detach().float()
            below = value.below.detach().float() if isinstance(value, Ratio) else 1
            first = name not in self.above
            self.above[name] = above if first else self.above[name] + above
            self.below[name] = below if first else self.below[name] + below

    def not_finite(self) -> list[str]:
        """Names of metrics that were NaN or infinite in any step since the last reading."""
        return [n for n, total in self.above.items() if not math.isfinite(float(total) + float(self.below[n]))]

    def last(self) -> dict[str, str]:
        return {name: str(float(value)) for name, value in self.newest.items()}

    def read(self) -> Numbers:
        """Means since the last reading, over all processes, which call this together; and begin again."""
        mine = {name: (float(total), float(self.below[name])) for name, total in self.above.items()}
        above: dict[str, float] = defaultdict(float)
        below: dict[str, float] = defaultdict(float)
        for found in distributed.gather(mine):
            for name, (over, under) in found.items():
                above[name] += over
                below[name] += under
        numbers = {name: divided(total, below[name]) for name, total in above.items()}
        self._lap("working")
        seconds = (self.waiting + self.working) / max(1, self.steps)
        numbers |= {
            "step_seconds": seconds,
            "samples_per_second": self.clips / max(seconds, 1e-9),
            "data_wait": self.waiting / max(self.waiting + self.working, 1e-9),
        }
        flops = self.progress.flops
        if flops:
            numbers |= {"flops": float(flops), "tflops_per_second": flops / max(seconds, 1e-9) / 1e12}
        self.above, self.below, self.steps = {}, {}, 0
        self.waiting = self.working = 0.0
        return numbers


def to_channels_last(networks: Iterable[nn.Module]) -> None:
    """Lay out the weights of networks with 2-D convolutions, and none in 3-D, as their fastest kernels take them."""
    for network in networks:
        dimensions = {p.dim() for p in network.parameters()}
        if 4 in dimensions and max(dimensions) < 5:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def seed_everything(seed: int) -> None:
    """torch (all devices), NumPy and Python."""
    import random

    import numpy as np

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, so that the step in hand is finished and saved; a second one ends at once."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are handled by the caller
        yield came
        return
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
