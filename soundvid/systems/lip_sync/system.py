"""The generator with its two discriminators: wav2lip's form and losses, and the recommended form.

Source: Prajwal et al. (2020), section 3: loss = s * sync + d * quality + (1 - s - d) * L1, d = 0.07, s = 0 until the
evaluated sync loss falls below 0.75, then 0.03.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.systems.lip_sync.basis import BasisGenerator
from soundvid.systems.lip_sync.config import LipSyncConfig
from soundvid.systems.lip_sync.data import principal_motion
from soundvid.systems.lip_sync.expert import adam, cross_entropy, start_from
from soundvid.systems.lip_sync.kernel import KernelSound
from soundvid.systems.lip_sync.linear import LinearSound, regressed
from soundvid.systems.lip_sync.networks import (
    MEL_COLUMNS,
    WINDOW,
    Generator,
    Quality,
    lower_half,
    mouths_of,
    without_lower_half,
)
from soundvid.training.system import Batch, Metrics, Ratio, System, frozen

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun


class LipSyncSystem(System):
    """Sound and pictures of a face or a vocal tract -> the pictures that belong to the sound."""

    name: ClassVar[str] = "lip_sync"
    monitor: ClassVar[str] = "l1"
    averaged: ClassVar[tuple[str, ...]] = ("generator",)

    def __init__(self, config: LipSyncConfig, facts: dict[str, Any], expert: nn.Module | None = None) -> None:
        """`expert` is a trained sync expert or None: it is frozen and no part of the checkpoint."""
        self.config: LipSyncConfig = config
        self.facts = facts
        self.networks = {"generator": make_generator(config)}
        betas = (0.5, 0.999) if config.form == "wav2lip" else (0.9, 0.98)  # w2l: 0.5; choice: as transformers' habit
        rate = config.learning_rate
        self.optimizers = {"generator": adam(self.networks["generator"], rate, config.weight_decay, betas)}
        if config.quality_weight:
            self.networks["quality"] = Quality()
            self.optimizers["quality"] = adam(self.networks["quality"], rate, 0.0, (0.5, 0.999))
        self.call = dict(self.networks)
        if not config.average_decay:
            self.averaged = ()  # type: ignore[misc]
        self.expert = expert.eval().requires_grad_(False) if expert is not None else None
        self.sync_counts = False  # has the evaluated sync loss fallen below the threshold?

    def prepare(self, examples: Any) -> None:
        """Start from the public checkpoint where `init` names it, the basis form from how the videos move."""
        generator = self.networks["generator"]
        if self.config.init:
            start_from(generator, self.config.form, self.config.init)
        if isinstance(generator, BasisGenerator):
            components = principal_motion(examples.cache, self.config.maps)
            generator.begin_with(torch.from_numpy(components).to(self.device))
            if generator.linear is not None:
                linear = LinearSound(self.config.maps, self.config.reach)
                linear.fit_clips(examples.cache, components)
                generator.begin_linear(linear.weight)
            kernel = generator.kernel or (KernelSound(self.config.maps) if generator.strength is not None else None)
            if kernel is not None:
                heard, wanted, _, speakers = regressed(kernel, examples.cache, components)
                left_out = kernel.fit(heard, wanted, speakers)
                energy = np.square(components, dtype=np.float64).sum((1, 2, 3))
                if generator.perceptrons is not None:
                    generator.perceptrons.fit(heard, wanted, energy, self.config.seed)
                if generator.strength is not None:
                    generator.strength.fit(examples.cache, wanted, left_out, energy)

    def to(self, device: str | torch.device) -> None:
        super().to(device)
        if self.expert is not None:
            self.expert.to(device)

    def state(self) -> dict[str, Any]:
        share = {} if self.regression_share is None else {"regression_share": float(self.regression_share)}
        return {"sync_counts": self.sync_counts, **share}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sync_counts = bool(state.get("sync_counts", False))
        if self.regression_share is not None:
            # Runs of before there were several regressions have it under the name of the only one.
            found = state["kernel_share"] if "kernel_share" in state else state["regression_share"]
            self.regression_share.fill_(float(found))

    @property
    def regression_share(self) -> Tensor | None:
        """The regression's part of the average, from 0 to 1; None without one."""
        generator = self.networks["generator"]
        return generator.share if isinstance(generator, BasisGenerator) and generator.kernel is not None else None

    @property
    def sync_weight(self) -> float:
        """s, as it is now."""
        return self.config.sync_weight if self.expert is not None and self.sync_counts else 0.0

    def made(self, batch: Batch) -> Tensor:
        """The pictures of a batch's sound: `B T 3 H W`, wav2lip's in [0, 1], the basis form's about that."""
        generator = self.call["generator"]
        if self.config.form == "basis":
            return generator(batch["mel_window"], batch["columns"], batch["reference"])
        frames, reference = batch["frames"].float() / 255, batch["reference"].float() / 255
        faces = torch.cat([without_lower_half(frames), reference], dim=2)
        made = generator(batch["mels"].flatten(0, 1), faces.flatten(0, 1))
        return made.unflatten(0, frames.shape[:2])

    def training_step(self, batch: Batch, step: int) -> Metrics:
        config, frames = self.config, batch["frames"].float() / 255
        self._set_rate(step)
        made = self.made(batch)
        l1 = (made - frames).abs().mean()
        s, d = self.sync_weight, config.quality_weight
        loss = (1 - s - d) * l1
        metrics = {"l1": l1.detach(), "sync_weight": torch.tensor(s)}
        if s and self.expert is not None:
            sync = self.sync_loss(made, batch, place=step)
            loss = loss + s * sync
            metrics["sync"] = sync.detach()
        if d:
            with frozen(self.networks["quality"]):
                quality = gan_bce(self.call["quality"](halves(made)), True)
            loss = loss + d * quality
            metrics["quality"] = quality.detach()
        if config.ssim_weight:
            likeness = ssim(lower_half(made), lower_half(frames))
            loss = loss + config.ssim_weight * (1 - likeness)
            metrics["ssim"] = likeness.detach()
        metrics["gradient"] = self.update("generator", loss, clip=1.0 if config.form == "basis" else None)
        if d:
            metrics |= self._discriminator_step(frames, made.detach())
        return metrics | {"loss": loss.detach()}

    def _discriminator_step(self, frames: Tensor, made: Tensor) -> dict[str, Tensor]:
        """A step of the quality discriminator."""
        real, fake = self.call["quality"](halves(frames)), self.call["quality"](halves(made))
        loss = gan_bce(real, True) + gan_bce(fake, False)
        self.update("quality", loss)
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"quality_loss": loss.detach(), "quality_accuracy": right.detach()}

    def validation_step(self, batch: Batch) -> Metrics:
        frames = batch["frames"].float() / 255
        made = self.made(batch).clamp(0, 1)
        wanted, found = lower_half(frames), lower_half(made)
        still = lower_half(self._mean_frame(batch, frames))
        error = ((wanted - found) ** 2).sum((1, 2, 3, 4)) / (wanted**2).sum((1, 2, 3, 4)).clamp_min(EMPTY)
        error_of_mean = ((wanted - still) ** 2).sum((1, 2, 3, 4)) / (wanted**2).sum((1, 2, 3, 4)).clamp_min(EMPTY)
        metrics: dict[str, Tensor | Ratio] = {
            "l1": (made - frames).abs().mean(),
            "nmse": error.mean(),
            "nmse_reference": error_of_mean.mean(),  # of the mean frame, repeated
            "ssim": ssim(found, wanted),
        }
        if self.expert is not None:
            metrics["sync"] = self.sync_loss(made, batch, place=0)
        generator = self.networks["generator"]
        if isinstance(generator, BasisGenerator) and generator.kernel is not None:
            own, other = generator.both(batch["mel_window"], batch["columns"], batch["reference"])
            apart, missing = lower_half(other - own), wanted - lower_half(own)
            # Of least squared error on these clips, drawn halfway to 1: a few clips do not tell it apart from that.
            least, whole = (apart * missing).sum(), apart.square().sum()
            metrics["regression_share"] = Ratio((least + whole) / 2, whole)
        return metrics

    def _mean_frame(self, batch: Batch, frames: Tensor) -> Tensor:
        """The mean of the reference, in every frame."""
        if self.config.form == "basis":
            return batch["reference"][:, None, :3].expand_as(frames)
        return (batch["reference"].float() / 255).mean(1, keepdim=True).expand_as(frames)

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        frames = batch["frames"].float() / 255
        with torch.no_grad():
            made = self.made(batch).clamp(0, 1)
        rows = {"input": self._mean_frame(batch, frames), "generated": made, "real": frames}
        return {name: pictures[:PREVIEWED] for name, pictures in rows.items()}

    def sync_loss(self, made: Tensor, batch: Batch, place: int) -> Tensor:
        """The expert's loss on five of the made frames; `place` picks them where there are more."""
        assert self.expert is not None
        first = place * WINDOW % (made.shape[1] - WINDOW + 1)
        if self.config.form == "basis":
            middle = batch["columns"][:, first + WINDOW // 2]
            at = middle[:, None] - MEL_COLUMNS // 2 + torch.arange(MEL_COLUMNS, device=middle.device)
            sound = batch["mel_window"]
            mel = sound.gather(2, at[:, None].expand(-1, sound.shape[1], -1))[:, None]
        else:
            mel = batch["mel"]
        probability = self.expert(mel, mouths_of(made[:, first : first + WINDOW]))
        return cross_entropy(probability, torch.ones_like(probability))

    def validated(self, numbers: dict[str, float]) -> None:
        """The sync loss counts from the first time its mean over validation clips is below the threshold.

        The regression's part is from now on what these clips say; the checkpoint holds it.
        """
        self.sync_counts |= numbers.get("sync", float("inf")) < self.config.sync_below
        if self.regression_share is not None:
            self.regression_share.fill_(min(max(numbers["regression_share"], 0.0), 1.0))

    def _set_rate(self, step: int) -> None:
        config = self.config
        share = min(1.0, (step + 1) / config.warm_up) if config.warm_up else 1.0
        share *= max(0.02, 1 - step / config.steps) if config.fall else 1.0
        for group in self.optimizers["generator"].param_groups:
            group["lr"] = config.learning_rate * share


def make_generator(config: LipSyncConfig) -> nn.Module:
    if config.form == "wav2lip":
        return Generator()
    linear = config.start == "ridge"
    sizes = (config.maps, config.width, config.dilations, config.channels, config.dropout)
    return BasisGenerator(*sizes, linear, config.ensemble, config.strength == "learnt")


def usable_expert(config: LipSyncConfig, expert: "OpenRun | None") -> nn.Module | None:
    """The network of a trained sync expert; None where there is none, or where it is not better than chance."""
    if expert is None or expert.best is None or expert.best >= config.chance:
        return None
    return expert.system.networks["expert"]


def at_chance(config: LipSyncConfig, expert: "OpenRun | None") -> tuple[str, ...]:
    """What the user has to know where `usable_expert` leaves a trained expert out."""
    if expert is None or usable_expert(config, expert) is not None:
        return ()
    loss = "no finite loss" if expert.best is None else f"loss {expert.best:.3f}"
    found = (
        f"the sync expert is not better than chance on validation clips ({loss}; it has to be below {config.chance:g})"
    )
    if not config.sync_weight:
        return (
            f"{found}: sync is not measured on them; the generator learns without an expert anyway (sync_weight 0)",
        )
    return (
        f"{found}: the generator learns without it, and sync_weight {config.sync_weight:g} is 0 throughout; stop, and "
        "train the expert in another folder on more clips or longer (--set expert.steps=..., expert.visits=...), or go "
        "on without one",
    )


def halves(frames: Tensor) -> Tensor:
    """`B T 3 H W` -> `BT 3 H/2 W`: what the quality discriminator gets."""
    return lower_half(frames).flatten(0, 1)


def gan_bce(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's logits against all real, or all generated; float32."""
    wanted = torch.full_like(logits, float(real), dtype=torch.float32)
    return functional.binary_cross_entropy_with_logits(logits.float(), wanted)


PREVIEWED = 4  # examples in the preview grid
EMPTY = 1e-6  # energy of a black picture: keeps a ratio finite


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM of pictures `... 3 H W` in [0, 1] as a loss: of their grey, Gaussian 11, sigma 1.5, in float32.

    The blur is a product with banded matrices: on a CPU a third of the cost of convolutions with one channel.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float().mean(-3), y.float().mean(-3)
        down, across = _blur(x.shape[-2], x.device), _blur(x.shape[-1], x.device).T

        def mean(z: Tensor) -> Tensor:
            return down @ (z @ across)

        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        likeness = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4))
        return likeness.mean()


def _blur(size: int, device: torch.device) -> Tensor:
    """The Gaussian as a matrix `size - 10, size`: places where it lies within the picture."""
    taps = torch.exp(-((torch.arange(11.0, device=device) - 5) ** 2) / 4.5)
    places = torch.arange(size, device=device) - torch.arange(size - 10, device=device)[:, None]
    inside = (places >= 0) & (places < 11)
    return torch.where(inside, (taps / taps.sum())[places.clamp(0, 10)], 0.0)
