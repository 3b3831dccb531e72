"""System 1: one image + sound -> video. Losses and the order of a step; see config for what each choice is."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundvid.systems.sound_to_video.basis import MOST_BYTES, MOST_PICTURES, Basis
from soundvid.systems.sound_to_video.config import Config
from soundvid.systems.sound_to_video.networks import (
    BLSTM,
    ONSET_FEATURES,
    Bands,
    Dilated,
    Film,
    PatchDiscriminator,
    StackedDiscriminator,
    UNet,
    VolumeDiscriminator,
    init_normal,
    onset_features,
)
from soundvid.systems.sound_to_video.pictures import Pick, correlation, energy, halved, local_energy, pixels
from soundvid.systems.sound_to_video.variation import Deviations, texture
from soundvid.training.system import Batch, Examples, Metrics, Ratio, System, frozen

SOUND_FEATURES = 32  # that a discriminator makes of the sound
MOST_GAIN = 100.0  # 40 dB: silence is not made loud
FLOOR = 1e-3  # magnitude below which scale log distinguishes nothing
MOST_CLIPS = 200  # that the normaliser is measured on
BASIS_CLIPS = 64  # that the components are found from, at most
AT_ONCE = 32  # pictures of a clip that are generated together
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the change from the input image, which `most_l1` chooses among and between
SILENT_ROWS = 120  # of silence, the middle of which stands for it
STILL_UNTIL = 100  # steps: generators that add to the input picture begin with the picture itself


class SoundToVideo(System):
    """L = alpha L1 + beta adversarial(picture) + gamma adversarial(chunk of pictures); ja 3.4, en 2.3."""

    name: ClassVar[str] = "sound_to_video"
    monitor: ClassVar[str] = "motion_error"
    averaged: ClassVar[tuple[str, ...]] = ("encoder", "generator")
    config: Config

    def __init__(self, config: Config, facts: dict[str, Any]) -> None:
        self.config, self.bins = config, int(facts["bins"])
        self.input_bins = config.bands or self.bins
        heard = self.input_bins + (ONSET_FEATURES if config.onsets else 0)
        self.bands = Bands(self.bins, config.bands, float(Fraction(facts["fps"]))) if config.bands else None
        make = BLSTM if config.encoder == "blstm" else Dilated
        encoder = make(heard, config.encoder_width)
        networks: dict[str, nn.Module] = {"encoder": encoder}
        if config.generator == "unet":
            networks["generator"] = UNet(encoder.features, config.width, config.norm, config.dropout)
        else:
            basis = Basis(encoder.features, config.basis, config.size, config.oscillators) if config.basis else None
            networks["generator"] = Film(
                encoder.features,
                config.width,
                config.norm,
                config.output,
                config.size,
                half=config.half_size > 0,
                basis=basis,
            )
        wide = config.discriminator_width
        if config.beta:
            networks["image_discriminator"] = PatchDiscriminator(3, wide, config.norm)
        if config.gamma and config.video_discriminator == "stacked":
            features = SOUND_FEATURES if config.discriminator_hears else 0
            networks["video_discriminator"] = StackedDiscriminator(
                config.chunk, wide, config.norm, bins=heard, sound_features=features
            )
        elif config.gamma:
            networks["video_discriminator"] = VolumeDiscriminator(wide, config.norm)
        if config.initial == "normal":
            for network in networks.values():
                init_normal(network)
        if isinstance(networks["generator"], Film):
            networks["generator"].start_still()
        self.networks, self.call = networks, dict(networks)
        self.optimizers = {"generator": self._adam(("encoder", "generator"), config.learning_rate)}
        critics = tuple(n for n in networks if n.endswith("discriminator"))
        if critics:
            self.optimizers["discriminators"] = self._adam(critics, config.discriminator_learning_rate)
        self.critics = critics
        self.fps = float(Fraction(facts["fps"]))
        self.tensors = {"mean": torch.zeros(self.input_bins), "deviation": torch.ones(self.input_bins)}
        if config.most_l1 is not None or config.strength < 1:
            self.tensors["strength"] = torch.tensor(config.strength)
        if config.variation:
            square = torch.zeros(config.basis, config.basis)
            self.tensors |= {"onward": square, "noise": square.clone(), "unforeseen": torch.ones(())}
        self.learnt = 0  # steps
        self._decodes: bool | None = None  # whether the decoder has learnt; None: to be asked, for which a GPU waits

    def _adam(self, names: tuple[str, ...], rate: float) -> torch.optim.Adam:
        parameters = [p for name in names for p in self.networks[name].parameters()]
        return torch.optim.Adam(
            parameters, rate, betas=(self.config.beta1, self.config.beta2), fused=torch.cuda.is_available() or None
        )

    # -- sound

    def prepare(self, examples: Examples) -> None:
        """Mean and deviation of each bin over the training clips, and the components of their motion."""
        if self.config.normalise:
            self._measure_sound(examples.clips)  # type: ignore[attr-defined]
        if self.basis is not None:
            count = min(len(examples), BASIS_CLIPS)
            chosen = [i * len(examples) // count for i in range(count)]
            most = min(MOST_PICTURES, MOST_BYTES // (12 * self.config.size**2)) // count
            each = max(1, min(most, examples.length))  # type: ignore[attr-defined]
            self.basis.begin_with(np.stack([examples.pictures(i, each) for i in chosen]))  # type: ignore[attr-defined]
            if self.config.variation:
                self._learn_variation(examples, chosen)

    def _learn_variation(self, examples: Any, chosen: Sequence[int]) -> None:
        assert self.basis is not None
        weights = []
        for index in chosen:
            pictures = torch.from_numpy(examples.pictures(index, examples.length)).to(self.device)
            weights.append(self.basis.weights_of(pictures))
        onward, noise = texture(weights)
        self.tensors = {**self.tensors, "onward": onward, "noise": noise}

    def deviations(self, sample: int | None, clips: int = 1) -> Deviations | None:
        """What is added to the foreseen motion of `clips` videos; None: nothing. Raises ValueError."""
        if sample is None:
            return None
        if not self.config.variation:
            raise ValueError("this run knows one motion for a sound")
        return Deviations(self.tensors["onward"], self.tensors["noise"], self.tensors["unforeseen"], sample, clips)

    @property
    def basis(self) -> Basis | None:
        """The generator's basis, where it has one."""
        generator = self.networks["generator"]
        return generator.basis if isinstance(generator, Film) else None

    def _measure_sound(self, clips: Any) -> None:
        count = 0
        total, squares = torch.zeros(self.input_bins).double(), torch.zeros(self.input_bins).double()
        step = max(1, len(clips) // MOST_CLIPS)
        for index in range(0, len(clips), step):
            rows = self._scaled(self._levelled(torch.from_numpy(clips.spectrogram(index))[None]))[0].double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        # Bins that hold next to nothing stay small instead of becoming noise.
        deviation = deviation.clamp(min=0.1 * float(deviation.max()) + 1e-6)
        self.tensors = {
            **self.tensors,
            "mean": mean.float().to(self.device),
            "deviation": deviation.float().to(self.device),
        }

    def _scaled(self, spectrogram: Tensor) -> Tensor:
        """Raw magnitudes `... bins`, pooled and on the scale of the config: `... input_bins`."""
        rows = self.bands.to(spectrogram.device)(spectrogram) if self.bands is not None else spectrogram
        if self.config.scale == "linear":
            return rows
        return torch.log1p(rows) if self.config.scale == "log1p" else torch.log(rows + FLOOR)

    def normalised(self, spectrogram: Tensor) -> Tensor:
        """Magnitudes as stored, `B N bins`, as the networks take them: float32, whatever precision they work in."""
        with torch.autocast(spectrogram.device.type, enabled=False):
            levelled = self._levelled(spectrogram.float())
            rows = self._scaled(levelled)
            if self.config.normalise:
                rows = (rows - self.tensors["mean"]) / self.tensors["deviation"]
            if self.config.onsets:
                pooled = self.bands.to(rows.device)(levelled) if self.bands is not None else levelled
                rows = torch.cat([rows, onset_features(pooled)], 2)
            return rows

    def _levelled(self, spectrogram: Tensor) -> Tensor:
        """Magnitudes `B N bins` at the level that the config asks for, a gain for each clip."""
        if self.config.amplitude == "stored":
            return spectrogram
        # Parseval: a row's mean square, 1 being full scale; a full-scale sine has a half.
        power = spectrogram.square().sum(2) * 2 / (2 * self.bins) ** 2
        level, wanted = (power.amax(1), 0.5) if self.config.amplitude == "peak" else (power.mean(1), 0.01)
        gain = (wanted / level.clamp(min=wanted / MOST_GAIN**2)).sqrt()
        return spectrogram * gain[:, None, None]

    # -- generating

    @torch.no_grad()
    def generate(
        self, images: Tensor, spectrogram: Tensor, *, at_once: int = AT_ONCE, sample: int | None = None
    ) -> Tensor:
        """A picture for each row of sound: float32 `B N 3 H W` in [-1, 1].

        `images` is float `B 3 H W` in [-1, 1], `spectrogram` float `B N bins`, raw magnitudes as stored, of any N.
        `at_once` pictures of each clip are made together; the result does not depend on it. `sample` is the number of
        another motion that the sound allows (`variation`).
        """
        if spectrogram.dim() != 3 or spectrogram.shape[2] != self.bins or len(images) != len(spectrogram):
            raise ValueError(
                f"generate: {tuple(images.shape)} images and {tuple(spectrogram.shape)} sound; needed are B 3 H W and "
                f"B N {self.bins}"
            )
        features = self.timed(self.call["encoder"](self.normalised(spectrogram)), range(spectrogram.shape[1]))
        deviations = self.deviations(sample, len(images))
        parts = [
            self.paint(images, part, deviation=None if deviations is None else deviations.next(part.shape[1]))
            for part in features.split(at_once, 1)
        ]
        return torch.cat(parts, 1)

    def paint(
        self, images: Tensor, features: Tensor, strength: Tensor | None = None, deviation: Tensor | None = None
    ) -> Tensor:
        """Pictures of features as `timed` returns them: float32 `B F 3 H W` in [-1, 1].

        A decoder that has not learnt yet is left out: its basis alone paints. `strength` is the system's own if None.
        `deviation` `B F K` is added to the weights of the components.
        """
        made = self._paint(images, features, strength, deviation)
        if self.config.guidance == 1:
            return made
        silent = self._paint(images, self._without_sound(features), strength, deviation)
        return torch.lerp(silent, made, self.config.guidance).clamp(-1, 1)

    def _without_sound(self, features: Tensor) -> Tensor:
        """Features `B F k` as `timed` returns them with those of silence, as long as nothing else is heard."""
        rows = torch.zeros(1, SILENT_ROWS, self.bins, device=features.device)
        silence = self.call["encoder"](self.normalised(rows))[:, SILENT_ROWS // 2].to(features.dtype)
        sound = silence[:, None].expand(*features.shape[:2], -1)
        return sound if self.basis is None else torch.cat([sound, features[..., -1:]], -1)

    def _paint(self, images: Tensor, features: Tensor, strength: Tensor | None, deviation: Tensor | None) -> Tensor:
        generator = self.networks["generator"]
        if isinstance(generator, Film) and generator.basis is not None:
            strength = self.strength if strength is None else strength
            if self._decodes is None:
                self._decodes = bool(generator.painted)
            if not self._decodes:
                return generator.basis(images, features, strength, deviation).float().clamp(-1, 1)
            return self.call["generator"](images, features, strength=strength).float()
        return self.call["generator"](images, features).float()

    @property
    def strength(self) -> Tensor | None:
        """What the basis' change from the input image is scaled by; None: as foreseen."""
        return self.tensors.get("strength")

    def timed(self, features: Tensor, numbers: Sequence[int]) -> Tensor:
        """Features `... N k` as the generator takes them; `numbers` counts their pictures from the input picture on.

        With a basis each ends with the time since the input picture, in seconds.
        """
        if self.basis is None:
            return features
        since = torch.tensor(list(numbers), device=features.device) / self.fps
        return torch.cat([features, since.to(features.dtype)[:, None].expand(*features.shape[:-1], 1)], -1)

    # -- learning

    def training_step(self, batch: Batch, step: int) -> Metrics:
        config = self.config
        image, frames = pixels(batch["image"]), batch["frames"]
        rows = self.normalised(self._louder(batch["spectrogram"]))
        self._set_rate(step)
        features = self.call["encoder"](rows)
        numbers = batch["numbers"]
        chosen = features.gather(1, numbers[:, :, None].expand(-1, -1, features.shape[2]))
        about_basis: dict[str, Tensor] = {}
        if self.basis is not None:
            since = (numbers - batch["shown"][:, None]) / self.fps
            chosen = torch.cat([chosen, since[:, :, None].to(chosen.dtype)], 2)
            own, weights = self.basis.weights(image, chosen)
            with torch.no_grad():
                wanted = self.basis.weights_of(frames)
            # The components are orthogonal: their weights' error is that of the pictures, as far as a basis can paint.
            off = (weights - wanted).square().sum(2).mean() / image[0].numel()
            about_basis = {"basis": (config.squared or config.alpha) * off}
            if step < config.basis_first * config.steps:
                few = pixels(frames[:, : config.chunk])
                return self._basis_step(image, few, own, weights, about_basis["basis"], step)
            generator = self.networks["generator"]
            assert isinstance(generator, Film)
            generator.painted.fill_(True)
            self._decodes = True
            if config.painted_per_step is not None:
                places = self._painted(numbers.shape[1])
                chosen, frames, numbers = chosen[:, places], frames[:, places], numbers[:, places]
        scaled = {} if self.strength is None else {"strength": self.strength}
        real = pixels(frames)
        half = step < config.half_size * config.steps
        if half:
            made, real = self.call["generator"](image, chosen, True, **scaled).float(), halved(real)
        else:
            made = self.call["generator"](image, chosen, **scaled).float()
        pick = Pick(config, numbers, rows)
        metrics: dict[str, Tensor] = {}
        if self.critics:
            metrics |= self._discriminator_step(real, made.detach(), pick)
        off = (made - real).abs()
        losses = {"l1": config.alpha * (off.mean() if config.reconstruction == "mean" else off.sum() / len(off))}
        if config.motion:
            moved, moves = (local_energy(pick.steps(x), 4 if half else 8) for x in (made, real))
            losses["motion"] = config.motion * (moved - moves).abs().mean()
        if config.squared:
            losses["squared"] = config.squared * (made - real).square().mean()
        with frozen(*(self.networks[name] for name in self.critics)):
            for name in self.critics:
                share = config.beta if name == "image_discriminator" else config.gamma
                loss = self._generator_loss(self._judge(name, made, pick))
                losses[f"adversarial_{name.partition('_')[0]}"] = share * loss
        # One backward for each loss, down to the pictures, gives the share of each: together no more than one costs.
        at_pictures = {k: torch.autograd.grad(v, made, retain_graph=True)[0] for k, v in losses.items()}
        whole = sum(at_pictures.values())
        assert isinstance(whole, Tensor)
        learnt = (made * whole).sum() + sum(about_basis.values())
        metrics["generator_gradient"] = self.update("generator", learnt, clip=config.clip)
        metrics |= self.gradients
        if len(at_pictures) > 1:
            norms = {k: v.norm() for k, v in at_pictures.items()}
            sum_of = torch.stack(list(norms.values())).sum().clamp(min=1e-20)
            metrics |= {f"share_{k}": v / sum_of for k, v in norms.items()}
        losses |= about_basis
        metrics |= {k: v.detach() for k, v in losses.items()}
        metrics["l1"] = (made.detach() - real).abs().mean() / 2  # in [0, 1] pixels, as when validating
        metrics["loss"] = torch.stack([v.detach() for v in losses.values()]).sum()
        ratio = Ratio(energy(pick.steps(made.detach())).sum(), energy(pick.steps(real)).sum())
        self.learnt = step + 1
        return {**{k: v.detach() for k, v in metrics.items()}, "motion_ratio": ratio}

    def _basis_step(
        self, image: Tensor, real: Tensor, own: Tensor, weights: Tensor, loss: Tensor, step: int
    ) -> Metrics:
        """A step of encoder and basis alone; `loss` is the weights'. `real`, a chunk of each clip, is for the log."""
        assert self.basis is not None
        self._decodes = False
        metrics = {"generator_gradient": self.update("generator", loss, clip=self.config.clip)}
        metrics |= {k: v for k, v in self.gradients.items() if "discriminator" not in k}
        with torch.no_grad():
            made = self.basis.paint(image, own, weights[:, : real.shape[1]]).clamp(-1, 1)
            metrics |= {"l1": (made - real).abs().mean() / 2, "basis": loss.detach(), "loss": loss.detach()}
            moved, moves = (energy(x.diff(dim=1)).sum() for x in (made, real))
        self.learnt = step + 1
        return {**metrics, "motion_ratio": Ratio(moved, moves)}

    def _painted(self, count: int) -> Tensor:
        """Which of a step's `count` pictures are painted: whole chunks, at random places, in order."""
        chunk, most = self.config.chunk, self.config.painted_per_step
        assert most is not None
        slots = count // chunk
        starts = torch.randperm(slots)[: max(1, min(slots, most // chunk))].sort().values * chunk
        return (starts[:, None] + torch.arange(chunk)).flatten().to(self.device)

    def _set_rate(self, step: int) -> None:
        config = self.config
        share = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
        if config.fall:
            share *= (1 + math.cos(math.pi * min(1.0, step / config.steps))) / 2
        for group in self.optimizers["generator"].param_groups:
            group["lr"] = config.learning_rate * share

    def _louder(self, spectrogram: Tensor) -> Tensor:
        if not self.config.sound_gain_db:
            return spectrogram
        gain = (torch.rand(len(spectrogram), 1, 1, device=spectrogram.device) * 2 - 1) * self.config.sound_gain_db
        return spectrogram * 10 ** (gain / 20)

    def _judge(self, name: str, frames: Tensor, pick: Pick, *, wrong_sound: bool = False) -> Tensor:
        if name == "image_discriminator":
            return self.call[name](pick.pictures(frames)).float()
        return self.call[name](pick.chunks(frames), pick.sound(wrong=wrong_sound)).float()

    def _discriminator_step(self, real: Tensor, made: Tensor, pick: Pick) -> dict[str, Tensor]:
        """A step of the discriminators."""
        losses, metrics = [], {}
        for name in self.critics:
            short = name.partition("_")[0]
            yes, no = self._judge(name, real, pick), self._judge(name, made, pick)
            loss = self._discriminator_loss(yes, no)
            if name == "video_discriminator" and self.config.discriminator_hears:
                wrong = self._judge(name, real, pick, wrong_sound=True)
                loss = (loss + self._discriminator_loss(yes, wrong)) / 2
                metrics["wrong_sound_video"] = torch.sigmoid(wrong).mean()
            losses.append(loss)
            metrics[f"discriminator_{short}"] = loss
            metrics[f"real_{short}"], metrics[f"fake_{short}"] = torch.sigmoid(yes).mean(), torch.sigmoid(no).mean()
            metrics[f"accuracy_{short}"] = ((yes > 0).float().mean() + (no <= 0).float().mean()) / 2
        metrics["discriminator_gradient"] = self.update("discriminators", torch.stack(losses).sum())
        return metrics

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """A discriminator's loss on logits."""
        if self.config.adversarial == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def _generator_loss(self, fake: Tensor) -> Tensor:
        """The generator's loss on a discriminator's logits."""
        if self.config.adversarial == "hinge":
            return -fake.mean()
        return -F.softplus(fake).mean() if self.config.adversarial == "saturating" else F.softplus(-fake).mean()

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        found = []
        for name in ("image", "video"):
            if metrics.get(f"accuracy_{name}", 0.0) > 0.995:
                found.append(f"the {name} discriminator recognises every fake: the generator learns nothing from it")
        if self.learnt >= STILL_UNTIL and metrics["motion_ratio"] < 0.05:
            found.append("generated pictures stand still (motion_ratio below 0.05)")
        return found

    # -- measuring

    def validation_step(self, batch: Batch) -> Metrics:
        """L1 in [0, 1] pixels, that of copying the input, and whether the right motion is there.

        `motion_error` picks the best checkpoint: 1 - c min(r, 1 / r), with c the correlation of generated and real
        change over time and blocks of 8 x 8 pixels, and r the ratio of their sums; mean over clips. 0 is the real
        video; a still one, or one that flickers as a whole, has about 1. L1 would pick blur: the median of all that
        may happen. `sound_correlation` is how much correlation of the motion over time is lost when the sound is that
        of half a clip later. With `most_l1`, this validation decides `strength` for what is generated from now on; its
        own numbers are of the one before. soundvid.metrics has the real measures.
        """
        image, real = pixels(batch["image"]), pixels(batch["frames"])
        count = real.shape[1]
        made = self.generate(image, batch["spectrogram"])[:, :count]
        later = batch["spectrogram"].roll(batch["spectrogram"].shape[1] // 2, 1)
        other = self.generate(image, later)[:, :count]
        steps, made_steps = real.diff(dim=1), made.diff(dim=1)
        moves, moved = energy(steps), energy(made_steps)
        right = correlation(moved, moves)
        wrong = correlation(energy(other.diff(dim=1)), moves)
        place = correlation(local_energy(made_steps, 8).flatten(1), local_energy(steps, 8).flatten(1))
        ratio = (moved.sum(1) / moves.sum(1).clamp(min=1e-6)).clamp(min=1e-6)
        scaled: dict[str, Tensor | Ratio] = {}
        if self.config.most_l1 is not None:
            scaled |= self._l1_of_strengths(image, real, batch["spectrogram"])
        if self.config.variation:
            scaled["unforeseen"] = self._unforeseen(image, batch["frames"], batch["spectrogram"])
        return {
            **scaled,
            "motion_error": (1 - place * torch.minimum(ratio, 1 / ratio)).mean(),
            "l1": (made - real).abs().mean() / 2,
            "l1_of_copying": (image[:, None] - real).abs().mean() / 2,
            "motion_ratio": Ratio(moved.sum(), moves.sum()),
            "motion_correlation": right.mean(),
            "sound_correlation": (right - wrong).mean(),
        }

    def _l1_of_strengths(self, image: Tensor, real: Tensor, spectrogram: Tensor) -> Metrics:
        """L1 of the pictures whose change from the input image is scaled by each of STRENGTHS."""
        count = real.shape[1]
        with torch.no_grad():
            features = self.timed(self.call["encoder"](self.normalised(spectrogram))[:, :count], range(count))
            found: dict[str, Tensor | Ratio] = {}
            for share in STRENGTHS:
                strength = torch.full_like(self.tensors["strength"], share)
                parts = zip(features.split(AT_ONCE, 1), real.split(AT_ONCE, 1), strict=True)
                off = [(self.paint(image, part, strength) - wanted).abs().sum() for part, wanted in parts]
                found[f"l1_at_{share:g}"] = torch.stack(off).sum() / (2 * real.numel())
        return found

    def _unforeseen(self, image: Tensor, frames: Tensor, spectrogram: Tensor) -> Ratio:
        """The squared error of the foreseen weights over the weights' squares about each clip's mean."""
        assert self.basis is not None
        count = frames.shape[1]
        with torch.no_grad():
            features = self.timed(self.call["encoder"](self.normalised(spectrogram))[:, :count], range(count))
            wanted = self.basis.weights_of(frames)
            missed = wanted - self.basis.weights(image, features)[1]
        return Ratio(missed.square().sum(), (wanted - wanted.mean(1, keepdim=True)).square().sum())

    def validated(self, numbers: dict[str, float]) -> None:
        if self.config.variation and math.isfinite(numbers["unforeseen"]):
            self.tensors["unforeseen"].fill_(min(max(numbers["unforeseen"], 0.0), 1.0))
        most = self.config.most_l1
        if most is not None and all(math.isfinite(value) for value in numbers.values()):
            off = [numbers["l1_of_copying"], *(numbers[f"l1_at_{share:g}"] for share in STRENGTHS)]
            found = strongest((0.0, *STRENGTHS), off, most * off[0])
            self.tensors["strength"].fill_(min(found, self.config.strength))

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        image, real = pixels(batch["image"]), pixels(batch["frames"])
        made = self.generate(image, batch["spectrogram"])[:, : real.shape[1]]
        return {k: (v + 1) / 2 for k, v in {"input": image[:, None], "real": real, "generated": made}.items()}


def strongest(strengths: Sequence[float], errors: Sequence[float], most: float) -> float:
    """The largest of rising strengths before the errors, linear in between, first exceed `most`."""
    for k in range(1, len(strengths)):
        if errors[k] > most:
            share = (most - errors[k - 1]) / (errors[k] - errors[k - 1])
            return strengths[k - 1] + share * (strengths[k] - strengths[k - 1])
    return strengths[-1]
