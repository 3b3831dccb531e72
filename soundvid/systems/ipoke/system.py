"""The three stages of system 3: a video auto-encoder, encoders of picture and poke, and the motion between them."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.errors import SoundvidError
from soundvid.systems.ipoke.config import ConditionConfig, MotionConfig, Shared, VideoConfig
from soundvid.systems.ipoke.invertible import InvertibleNetwork, negative_log_likelihood
from soundvid.systems.ipoke.landmarks import CHANNELS, LandmarkFinder, Landmarks
from soundvid.systems.ipoke.matching import MatchingNetwork
from soundvid.systems.ipoke.networks import (
    PLACES,
    Encoders,
    MapDecoder,
    PatchDiscriminator,
    TemporalDiscriminator,
    VideoAutoencoder,
    VideoDecoder,
    displacement,
    painted,
    warped,
)
from soundvid.systems.ipoke.perceptual import Perceptual, load_perceptual
from soundvid.training.system import Batch, Examples, Metrics, System, frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from soundvid.training.run import OpenRun

PREVIEWED = 4  # examples in the preview grid
WITHOUT_FACE = "without_face"  # in the log
MEASURED = 256  # sequences from which the spread of codes is taken


def pictures_of(batch: Batch) -> Tensor:
    """`frames` of a batch as floats in [-1, 1]: `B 1+T 3 S S`."""
    return batch["frames"].float() / 127.5 - 1


def faces_of(batch: Batch) -> Metrics:
    """The share of a batch's pictures in which no face was found, where landmarks are read."""
    marks = batch.get("landmarks")
    return {} if marks is None else {WITHOUT_FACE: (marks.flatten(1).amax(1) == 0).float().mean()}


def make_autoencoder(config: VideoConfig) -> VideoAutoencoder:
    return VideoAutoencoder(
        config.latent,
        config.encoder_channels,
        config.decoder_channels,
        config.gru_layers,
        config.size,
        config.decoder,
        config.encoder,
    )


def make_motion(config: MotionConfig, latent: int, condition: int) -> InvertibleNetwork | MatchingNetwork:
    """The network of stage 3 for codes of `latent` channels, given a condition of `condition` channels."""
    if config.form == "invertible":
        return InvertibleNetwork(latent, config.steps_of_level, config.split, config.factor * latent, condition)
    return MatchingNetwork(latent, condition, config.size // PLACES, config.width, config.blocks, config.heads)


class PokeSystem(System):
    """What the stages share."""

    name: ClassVar[str] = "ipoke"
    config: Shared
    perceptual: Perceptual | None = None

    def to(self, device: str | torch.device) -> None:
        super().to(device)
        for network in self._helpers():
            network.to(device)

    def _helpers(self) -> list[nn.Module]:
        """Networks that are used and not learnt here: they are no part of the checkpoint."""
        return [self.perceptual] if self.perceptual is not None else []

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        if metrics.get(WITHOUT_FACE, 0.0) <= 0.5:
            return []
        return [
            f"no face is found in more than half of the pictures, whose landmarks are 0 ('{WITHOUT_FACE}' in the log)"
        ]

    def _use_perceptual(self, weight: float) -> None:
        self.perceptual, self.warnings = load_perceptual(weight)

    def state(self) -> dict[str, Any]:
        return {"perceptual": self.perceptual is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        if not isinstance(state["perceptual"], bool):
            raise ValueError(f"perceptual is {state['perceptual']!r}")

    def set_rate(self, rate: float) -> None:
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _check(self, earlier: "Mapping[str, OpenRun]", *needed: str) -> None:
        """Raise SoundvidError where a stage before this one is missing or does not fit."""
        for name in needed:
            if name not in earlier:
                raise SoundvidError(f"ipoke: the stage '{name}' has to be trained first; train it in the same folder")
        for name, run in earlier.items():
            theirs, own = run.system.config.shared, self.config.shared  # type: ignore[attr-defined]
            wrong = [k for k, v in own.items() if theirs.get(k, v) != v]
            if wrong:
                raise SoundvidError(
                    f"{run.folder.path}: stage '{name}' was trained with another {wrong[0]} ({theirs[wrong[0]]}, here "
                    f"{own[wrong[0]]}); name another folder for another run"
                )


class VideoSystem(PokeSystem):
    """Stage 1: sequences to codes and back, with two discriminators where `adversarial_weight` is not 0."""

    # Of the mean absolute error, a mouth that opens is too small a part.
    monitor: ClassVar[str] = "squared"
    averaged: ClassVar[tuple[str, ...]] = ("autoencoder",)
    config: VideoConfig

    def __init__(self, config: VideoConfig, facts: dict[str, Any]) -> None:
        self.config = config
        self.sequences = int(facts["sequences"])
        self.networks = {"autoencoder": make_autoencoder(config)}
        if config.adversarial_weight:
            self.networks["spatial"] = PatchDiscriminator(config.discriminator_channels)
            self.networks["temporal"] = TemporalDiscriminator(config.discriminator_channels)
        self.call = dict(self.networks)
        self.optimizers = {
            name: torch.optim.Adam(
                network.parameters(),
                config.learning_rate,
                (0.5, 0.9) if config.adversarial_weight else (0.9, 0.99),  # of an adversary (ipoke), or the usual
                weight_decay=config.weight_decay,
            )
            for name, network in self.networks.items()
        }
        if not config.average_decay:
            self.averaged = ()  # type: ignore[misc]
        self._use_perceptual(config.perceptual_weight)

    @property
    def _decoder(self) -> VideoDecoder:
        autoencoder: Any = self.networks["autoencoder"]
        return autoencoder.decoder

    def training_step(self, batch: Batch, step: int) -> Metrics:
        config, real = self.config, pictures_of(batch)
        self.set_rate(config.learning_rate * config.decay ** (step * config.batch // self.sequences))
        chosen = self._made()
        of_flow = [k - 1 for k in config.flows_back]
        raw, mean, log_variance, paint = self.call["autoencoder"](
            real, batch.get("back"), chosen, of_flow if config.paint_weight else None
        )
        made = self._decoder.pictures(raw, real[:, 0])
        after = real[:, [1 + k for k in chosen]]
        l1 = (made - after).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
        loss = config.l1_weight * l1 + config.kl_weight * kl
        metrics: dict[str, Tensor] = {"l1": l1.detach(), "kl": kl.detach()}
        if config.coarse_weight:
            loss = loss + config.coarse_weight * coarse_l1(made, after)
        if config.flow_weight:
            fetched = displacement(raw[:, [chosen.index(k) for k in of_flow]])
            flow = (Encoders.SCALE * fetched - Encoders.scaled(batch["back"])).abs().mean()
            loss = loss + config.flow_weight * flow
            metrics["flow"] = flow.detach()
        if paint is not None:
            missing = unexplained(paint, batch["back"], real[:, 0], real[:, list(config.flows_back)])
            loss = loss + config.paint_weight * missing
            metrics["paint"] = missing.detach()
        if self.perceptual is not None:
            loss = loss + config.perceptual_weight * self.perceptual(made.flatten(0, 1), after.flatten(0, 1))
        fake = torch.cat([real[:, :1], made], 1)
        if config.adversarial_weight:
            metrics |= self._discriminators_step(real, fake.detach())
            adversarial, reported = self._adversarial(real, fake)
            loss = loss + config.adversarial_weight * adversarial
            metrics |= reported
        metrics["gradient"] = self.update("autoencoder", loss, clip=10.0)
        return metrics | {"loss": loss.detach()}

    def _made(self) -> list[int]:
        """The pictures that a step makes, from 0: all, or those that are compared with flow and some others."""
        config = self.config
        if config.decoded is None or config.decoded >= config.frames:
            return list(range(config.frames))
        always = [k - 1 for k in config.flows_back if config.flow_weight] or [config.frames - 1]
        others = [k for k in torch.randperm(config.frames).tolist() if k not in always]
        return sorted(always + others[: max(0, config.decoded - len(always))])

    def _chosen(self, frames: Tensor) -> Tensor:
        """Some pictures of a batch of sequences, for the spatial discriminator."""
        flat = frames.flatten(0, 1)
        return flat[torch.randperm(len(flat), device=flat.device)[: self.config.discriminated]]

    def _discriminators_step(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """A step of both discriminators, hinge; the temporal one with a penalty of its gradient at real sequences."""
        spatial = hinge(self.call["spatial"](self._chosen(real))[0], self.call["spatial"](self._chosen(fake))[0])
        self.update("spatial", spatial)
        shown = (
            real.detach().requires_grad_(bool(self.config.penalty_weight)) * 1
        )  # no leaf: the loop's counter takes none
        logits = self.call["temporal"](shown)[0]
        temporal = hinge(logits, self.call["temporal"](fake)[0])
        penalty = temporal.new_zeros(())
        if self.config.penalty_weight:
            (gradient,) = torch.autograd.grad(logits.sum(), shown, create_graph=True)
            penalty = gradient.square().flatten(1).sum(1).mean()
        self.update("temporal", temporal + self.config.penalty_weight * penalty)
        return {"spatial": spatial.detach(), "temporal": temporal.detach(), "penalty": penalty.detach()}

    def _adversarial(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the auto-encoder has to lower: the discriminators' logits, and the distance of what they see."""
        weight = self.config.matching_weight
        with frozen(self.networks["spatial"], self.networks["temporal"]):
            # The same pictures, real and made, so that what is seen of them can be compared.
            flat_real, flat_fake = real.flatten(0, 1), fake.flatten(0, 1)
            chosen = torch.randperm(len(flat_fake), device=fake.device)[: self.config.discriminated]
            spatial, seen = self.call["spatial"](flat_fake[chosen])
            temporal, seen_over_time = self.call["temporal"](fake)
            with torch.no_grad():
                wanted = self.call["spatial"](flat_real[chosen])[1], self.call["temporal"](real)[1]
        matching = apart(seen, wanted[0]) + apart(seen_over_time, wanted[1])
        loss = -spatial.mean() - temporal.mean() + weight * matching
        return loss, {"matching": matching.detach()}

    def validation_step(self, batch: Batch) -> Metrics:
        real = pictures_of(batch)
        raw, *_ = self.call["autoencoder"](real, batch.get("back"))
        made, after = self._decoder.pictures(raw, real[:, 0]), real[:, 1:]
        return {
            "squared": (made - after).square().mean(),
            "l1": (made - after).abs().mean(),
            "l1_copy": (real[:, :1] - after).abs().mean(),
        }

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        real, back = pictures_of(batch)[:PREVIEWED], batch.get("back")
        with torch.no_grad():
            raw, *_ = self.call["autoencoder"](real, back[:PREVIEWED] if back is not None else None)
            made = self._decoder.pictures(raw, real[:, 0])
        rows = {"real": real, "generated": torch.cat([real[:, :1], made], 1)}
        return {name: (frames / 2 + 0.5).clamp(0, 1) for name, frames in rows.items()}


def coarse_l1(made: Tensor, real: Tensor) -> Tensor:
    """L1 at a half and a quarter of the size, `B T 3 S S`: it pulls at what is further away than a pixel."""
    a, b = made.flatten(0, 1), real.flatten(0, 1)
    loss = a.new_zeros(())
    for _ in range(2):
        a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
        loss = loss + (a - b).abs().mean()
    return loss


def unexplained(paint: Tensor, back: Tensor, image: Tensor, real: Tensor) -> Tensor:
    """Squared error of the first picture moved by the true flow and painted, as a share of that without paint.

    paint `B N 3 S S`, back `B N 2 S S` in pixels, image `B 3 S S`, real `B N 3 S S`.
    """
    moved = warped(back.flatten(0, 1) / back.shape[-1], image.repeat_interleave(back.shape[1], 0)).view_as(real)
    off = (moved - real).square().mean()
    return (moved + painted(paint) - real).square().mean() / off.clamp_min(1e-6)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def apart(seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Feature matching: the mean over layers of L1."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(seen, wanted, strict=True)]).mean()


class ConditionSystem(PokeSystem):
    """Stage 2: the picture from its code, the whole flow from the poke's code; errors weighed by a learnt variance."""

    config: ConditionConfig

    def __init__(self, config: ConditionConfig, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> None:
        self.config = config
        self._check(earlier)
        self.networks = {
            "encoders": Encoders(config.channels, CHANNELS if config.landmarks else 0),
            "image": MapDecoder(config.channels, 3),
            "flow": MapDecoder(config.channels, 2),
            "variances": _Variances(),
        }
        self.averaged = ("encoders",) if config.average_decay else ()  # type: ignore[misc]
        self.call = dict(self.networks)
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        self.optimizers = {
            "all": torch.optim.Adam(parameters, config.learning_rate, (0.5, 0.9), weight_decay=config.weight_decay)
        }
        self._use_perceptual(config.perceptual_weight)

    def _errors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The L1 of picture and flow (in tenths of a side), and the picture that was made."""
        image = pictures_of(batch)[:, 0]
        encoders: Any = self.call["encoders"]
        code = encoders(image, batch["poke"], batch.get("landmarks"))
        picture, poke = code.split(encoders.channels // 2, 1)
        made = torch.tanh(self.call["image"](picture))
        flow = self.call["flow"](poke)
        return (made - image).abs().mean(), (flow - Encoders.scaled(batch["flow"])).abs().mean(), made

    def training_step(self, batch: Batch, step: int) -> Metrics:
        image, flow, made = self._errors(batch)
        looks = image
        if self.perceptual is not None:
            looks = image + self.config.perceptual_weight * self.perceptual(made, pictures_of(batch)[:, 0])
        variances: Any = self.networks["variances"]
        loss = variances(torch.stack([looks, flow]))
        gradient = self.update("all", loss, clip=10.0)
        found = {"loss": loss.detach(), "image": image.detach(), "flow": flow.detach(), "gradient": gradient}
        return {**found, **faces_of(batch)}

    def validation_step(self, batch: Batch) -> Metrics:
        image, flow, _ = self._errors(batch)
        still = Encoders.scaled(batch["flow"]).abs().mean()
        return {"loss": image + flow, "image": image, "flow": flow, "flow_zero": still, **faces_of(batch)}


class _Variances(nn.Module):
    """Learnt log-variances that weigh several errors against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, errors: Tensor) -> Tensor:
        return (errors * (-self.log_variance).exp() + self.log_variance).sum()


class MotionSystem(PokeSystem):
    """Stage 3: the distribution of codes given picture and poke. Stages 1 and 2 are needed, and stay as they are."""

    config: MotionConfig

    def __init__(self, config: MotionConfig, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> None:
        self.config = config
        self._check(earlier, "video", "condition")
        video: Any = earlier["video"].system.networks["autoencoder"]
        encoders: Any = earlier["condition"].system.networks["encoders"]
        self.video: VideoAutoencoder = video.eval().requires_grad_(False)
        self.networks = {"motion": make_motion(config, self.video.latent, encoders.channels)}
        self.frozen_encoders: Encoders | None = None
        if config.tune_condition:
            own = Encoders(encoders.channels // 2, encoders.landmarks)
            own.load_state_dict(encoders.state_dict())
            self.networks["encoders"] = own
        else:
            self.frozen_encoders = encoders.eval().requires_grad_(False)
        self._find_landmarks: LandmarkFinder | None = None
        self.averaged = tuple(self.networks) if config.average_decay else ()  # type: ignore[misc]
        self.call = dict(self.networks)
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        invertible = config.form == "invertible"
        self.optimizers = {
            "all": torch.optim.Adam(
                parameters,
                config.learning_rate,
                (0.9, 0.999) if invertible else (0.9, 0.98),
                weight_decay=config.weight_decay if invertible else 0.0,
                amsgrad=invertible,
            )
        }
        channels = self.video.latent
        self.tensors = {"mean": torch.zeros(channels, 1, 1), "deviation": torch.ones(channels, 1, 1)}

    def _helpers(self) -> list[nn.Module]:
        return [self.video, *([self.frozen_encoders] if self.frozen_encoders is not None else [])]

    def prepare(self, examples: Examples) -> None:
        """Standardise codes by their mean and deviation over training sequences; begin the invertible network."""
        count = min(MEASURED, len(examples))
        chosen = [k * len(examples) // count for k in range(count)]
        codes, conditions = [], []
        batch = max(2, min(32, count))
        for at in range(0, count, batch):
            arrays = [examples.example(i, 0) for i in chosen[at : at + batch]]
            tensors = {k: torch.from_numpy(np.stack([a[k] for a in arrays])).to(self.device) for k in arrays[0]}
            with torch.no_grad():
                codes.append(self.video.encoded(pictures_of(tensors), tensors.get("back"))[0])
                conditions.append(self._condition_of(tensors))
        whole = torch.cat(codes)
        self.tensors = {
            "mean": whole.mean((0, 2, 3))[:, None, None],
            "deviation": whole.std((0, 2, 3))[:, None, None].clamp_min(1e-4),
        }
        motion: Any = self.networks["motion"]
        if isinstance(motion, InvertibleNetwork):
            motion.begin(self._standardised(whole[: 2 * batch]), torch.cat(conditions)[: 2 * batch])

    def _standardised(self, code: Tensor) -> Tensor:
        return (code - self.tensors["mean"]) / self.tensors["deviation"]

    def condition(self, image: Tensor, poke: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """image `B 3 S S` in [-1, 1], poke `B 2 S S` in pixels, landmarks `B 5 S S` if it reads them -> `B K G G`."""
        if self.frozen_encoders is not None:
            with torch.no_grad():
                return self.frozen_encoders(image, poke, landmarks)
        return self.call["encoders"](image, poke, landmarks)

    def _condition_of(self, batch: Batch) -> Tensor:
        return self.condition(pictures_of(batch)[:, 0], batch["poke"], batch.get("landmarks"))

    def landmarks_in(self, picture: np.ndarray) -> Landmarks | None:
        """Of a picture at the networks' size, uint8 `S S 3`; None where the run reads none. Raises MissingWeights."""
        if not self.config.landmarks:
            return None
        if self._find_landmarks is None:
            self._find_landmarks = LandmarkFinder()
        return self._find_landmarks(picture)

    def code(self, batch: Batch) -> Tensor:
        """The standardised codes of a batch's sequences."""
        with torch.no_grad():
            return self._standardised(self.video.encoded(pictures_of(batch), batch.get("back"))[0].float())

    def _loss(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        code, condition = self.code(batch), self._condition_of(batch)
        motion: Any = self.call["motion"]
        if self.config.form == "invertible":
            return negative_log_likelihood(*motion(code, condition))
        return motion.loss(code, condition, generator)

    def training_step(self, batch: Batch, step: int) -> Metrics:
        config = self.config
        warm = min(1.0, (step + 1) / config.warm_up) if config.warm_up else 1.0
        fall = max(0.0, 1 - max(0, step - config.warm_up) / max(1, config.steps - config.warm_up))
        self.set_rate(config.learning_rate * warm * fall)
        loss = self._loss(batch)
        gradient = self.update("all", loss, clip=config.clip or None)
        return {"loss": loss.detach(), "gradient": gradient, **faces_of(batch)}

    def validation_step(self, batch: Batch) -> Metrics:
        generator = torch.Generator(self.device).manual_seed(0)  # the same noise at each validation
        return {"loss": self._loss(batch, generator), **faces_of(batch)}

    def sampled(self, image: Tensor, poke: Tensor, noise: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Standardised codes for what `condition` takes and noise `B Z G G`."""
        condition, motion = self.condition(image, poke, landmarks), self.call["motion"]
        with torch.no_grad():
            if self.config.form == "invertible":
                return motion.inverse(noise, condition)  # type: ignore[operator]
            return motion.inverse(noise, condition, self.config.solver_steps)  # type: ignore[operator]

    def decoded(self, code: Tensor, image: Tensor) -> Tensor:
        """Pictures `B T 3 S S` in [-1, 1] of standardised codes `B Z G G` and the first pictures `B 3 S S`."""
        with torch.no_grad():
            return self.video.decoder(self.raw_code(code), image, self.config.frames)

    def raw_code(self, code: Tensor) -> Tensor:
        """A standardised code as the decoder takes it."""
        return code * self.tensors["deviation"] + self.tensors["mean"]

    def noise_shape(self, count: int) -> tuple[int, int, int, int]:
        return count, self.video.latent, self.video.places, self.video.places

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        real = pictures_of(batch)[:PREVIEWED]
        noise = torch.randn(self.noise_shape(len(real)), device=self.device)
        image, marks = real[:, 0], batch["landmarks"][:PREVIEWED] if self.config.landmarks else None
        with torch.no_grad():
            made = self.decoded(self.sampled(image, batch["poke"][:PREVIEWED], noise, marks), image)
        rows = {"real": real, "generated": torch.cat([real[:, :1], made], 1)}
        return {name: (frames / 2 + 0.5).clamp(0, 1) for name, frames in rows.items()}
