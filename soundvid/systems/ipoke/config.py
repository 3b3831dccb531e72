"""Every choice of system 3, named, with where it comes from; and the presets.

ja: "video generation by swiping a face image"; ipoke: Blattmann et al., "iPOKE: poking a still image for controlled
stochastic video synthesis" (ICCV 2021) and its public code; choice: neither says, or it was found better here
(docs/ipoke.md).
"""

from typing import Literal

from pydantic import Field, model_validator

from soundvid.features.optical_flow import Estimator
from soundvid.training.system import Options


class Shared(Options):
    """What all three stages must have alike, and how each of them reads its data."""

    size: int = Field(64, ge=16, le=256, multiple_of=16, description="pixels a side; ja: 64")
    frames: int = Field(10, ge=1, le=64, description="T, pictures after the first; ja: 10")
    interval: int = Field(10, ge=1, description="pictures between which the flow is taken; ja: 10, or 5")
    estimator: Estimator = Field("dis_fast", description="of the flow; ja: FlowNet 2.0, whose weights are others'")
    encoder: Literal["resnet", "flow"] = Field(
        "resnet",
        description="of sequences, in stage 1. resnet: a 3-D ResNet-18 (ipoke); flow: a small network that gets the "
        "optical flow back to the first picture, too (choice: a small network takes hours to find out what moves)",
    )
    pokes: int = Field(5, ge=1, le=32, description="pokes of an example, at most; ipoke: 5")
    zero_every: int = Field(12, ge=0, description="one example in so many is a zero poke; ipoke: 12. 0: none")
    mirror: bool = Field(False, description="half of the examples left and right exchanged; choice for little data")
    visits: int = Field(1, ge=1, description="sequences drawn from each clip in an epoch; choice")
    landmarks: bool = Field(
        False,
        description="stages 2 and 3: where the eyes, the nose and the corners of the mouth are in the first picture is "
        "part of the condition; ja suggests it",
    )
    cache_megabytes: int = Field(1024, ge=1, description="memory for decoded pictures; the rest is decoded again")
    batch: int = Field(20, ge=1, description="sequences; ipoke: 20 (stage 1), 40 (stage 3)")
    weight_decay: float = Field(1e-5, ge=0, description="ipoke: 1e-5")

    @property
    def flows_back(self) -> tuple[int, ...]:
        """Pictures of an example from which the flow back to the first one is wanted, too."""
        return ((self.frames + 1) // 2, self.frames) if self.encoder == "flow" else ()

    @property
    def reads_landmarks(self) -> bool:
        """Whether this stage gets the landmarks of first pictures."""
        return False

    @model_validator(mode="after")
    def _within(self) -> "Shared":
        if self.interval > self.frames:
            raise ValueError(f"interval {self.interval}: a sequence has only {self.frames} pictures after the first")
        return self

    @property
    def shared(self) -> dict[str, object]:
        """What all stages of a run must have alike."""
        return {name: getattr(self, name) for name in ("size", "frames", "interval", "estimator", "encoder")}


class VideoConfig(Shared):
    """Stage 1: a video auto-encoder, a sequence -> a code of 8x8 places -> the sequence, given its first picture."""

    decoder: Literal["spade", "warp"] = Field(
        "spade",
        description="spade: pictures are painted anew (ipoke, ja); warp: the first picture is moved, and painted over "
        "where it must be (choice: sharp and still from the first step on; docs/ipoke.md)",
    )
    latent: int = Field(32, ge=2, description="channels of the code; ipoke: 32")
    encoder_channels: tuple[int, int, int, int] = Field((64, 128, 256, 256), description="of its layers; ipoke")
    decoder_channels: tuple[int, ...] = Field(
        (256, 256, 128, 64),
        min_length=2,
        max_length=4,
        description="at the code's 8 places a side, then after each doubling; ipoke. Where less than three doublings "
        "are given (warp), what is left is bilinear",
    )
    gru_layers: int = Field(4, ge=1, le=8, description="of the recurrent network over time; ipoke: 4")
    decoded: int | None = Field(
        None,
        ge=2,
        description="pictures of a sequence that a step makes, the last among them; null: all (ipoke). A few "
        "cost a small network half as much; without discriminators only",
    )
    l1_weight: float = Field(10.0, ge=0, description="ipoke: 10")
    coarse_weight: float = Field(0.0, ge=0, description="of L1 at a half and a quarter of the size; choice for warp")
    flow_weight: float = Field(
        0.0,
        ge=0,
        description="of L1 between where the warp decoder fetches points and the optical flow says that they "
        "come from, half-way and at the end; choice: without it a small network takes long to find what moves",
    )
    paint_weight: float = Field(
        0.0,
        ge=0,
        description="of the squared error that is left when the first picture is moved by the true flow and painted, "
        "as a share of that without paint; with decoder warp and encoder flow. Choice: what the first picture does not "
        "show, such as the inside of a mouth, is learnt from this alone; 0: nothing is painted",
    )
    kl_weight: float = Field(1e-7, ge=0, description="ipoke: 1e-7")
    perceptual_weight: float = Field(10.0, ge=0, description="ipoke: 10; off where the VGG weights are missing")
    adversarial_weight: float = Field(1.0, ge=0, description="of both discriminators; ipoke: 1. 0: there are none")
    matching_weight: float = Field(
        1.0, ge=0, description="feature matching; ipoke: 1. ja's eq. 2 subtracts it for the spatial one: a slip"
    )
    penalty_weight: float = Field(1.0, ge=0, description="gradient penalty of the temporal discriminator; ipoke: 1")
    discriminator_channels: int = Field(64, ge=8, description="of the first layer; ipoke: 64")
    discriminated: int = Field(16, ge=1, description="pictures of a batch that the spatial one sees; ipoke: 16")
    learning_rate: float = Field(2e-4, gt=0, description="Adam (0.5, 0.9); ipoke: 2e-4")
    decay: float = Field(0.98, gt=0, le=1, description="of the learning rate, each epoch; ipoke: 0.98")

    @model_validator(mode="after")
    def _form_fits(self) -> "VideoConfig":
        if self.flow_weight and self.encoder != "flow":
            raise ValueError("flow_weight: the flow is there with 'encoder: flow' only")
        if self.decoder == "spade" and (len(self.decoder_channels) != 4 or self.flow_weight):
            raise ValueError("decoder spade has four decoder_channels and no flow_weight")
        if self.paint_weight and (self.decoder, self.encoder) != ("warp", "flow"):
            raise ValueError("paint_weight: needs decoder warp and encoder flow")
        if self.encoder == "flow" and self.latent < 8:
            raise ValueError("encoder flow: latent 8 or more, as the flow itself takes four channels of the code")
        if self.decoded is not None and self.adversarial_weight:
            raise ValueError("decoded: discriminators see whole sequences: null, or adversarial_weight 0")
        return self


class _Conditioned(Shared):
    """What the stages that read a condition must have alike, too."""

    @property
    def reads_landmarks(self) -> bool:
        return self.landmarks

    @property
    def shared(self) -> dict[str, object]:
        return super().shared | {"landmarks": self.landmarks}


class ConditionConfig(_Conditioned):
    """Stage 2: auto-encoders of the picture, and of the poke, from which the whole flow is predicted."""

    @property
    def flows_back(self) -> tuple[int, ...]:
        return ()

    channels: int = Field(64, ge=8, multiple_of=8, description="of both codes; ipoke: 64")
    learning_rate: float = Field(2e-4, gt=0, description="ipoke: 2e-4")
    perceptual_weight: float = Field(1.0, ge=0, description="ipoke: 1; off where the VGG weights are missing")


class MotionConfig(_Conditioned):
    """Stage 3: which code of a video belongs to picture and poke, and how likely is each?"""

    form: Literal["invertible", "matching"] = Field(
        "invertible",
        description="invertible: a conditional normalizing flow of masked convolutions (ipoke, ja); matching: flow "
        "matching by a transformer over the code's places (choice; docs/ipoke.md)",
    )
    steps_of_level: tuple[int, ...] = Field(
        (10, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1), min_length=1, description="invertible: steps; ipoke"
    )
    split: int = Field(2, ge=1, description="invertible: channels that each level splits off; ipoke: 2 of 32")
    factor: int = Field(
        64, ge=1, description="invertible: hidden channels of couplings in channels of the code; ipoke: 64 (2,048)"
    )
    width: int = Field(192, ge=16, multiple_of=16, description="matching: channels of the transformer; choice")
    blocks: int = Field(6, ge=1, description="matching: of the transformer; choice")
    heads: int = Field(4, ge=1, description="matching: of its attention; choice")
    solver_steps: int = Field(20, ge=1, le=200, description="matching: Euler steps from noise to code; choice")
    tune_condition: bool = Field(
        False, description="go on learning stage 2's encoders; ipoke: they are frozen. choice for matching"
    )
    learning_rate: float = Field(1e-3, gt=0, description="ipoke: 1e-3 (Adam, amsgrad)")
    clip: float = Field(0.0, ge=0, description="norm at which gradients are clipped; ipoke: 0, not at all")
    warm_up: int = Field(500, ge=0, description="steps over which the learning rate grows; ipoke: 500, then it falls")

    @model_validator(mode="after")
    def _heads_fit(self) -> "MotionConfig":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads}: width {self.width} is not a multiple of them")
        return self


_SMALL = {"mirror": True, "visits": 4, "validate_every": 200, "checkpoint_every": 200, "sample_every": 200,
          "validation_clips": 16, "average_decay": 0.99}  # fmt: skip
_WARP = {"decoder": "warp", "encoder": "flow", "perceptual_weight": 0.0, "adversarial_weight": 0.0,
         "coarse_weight": 5.0, "flow_weight": 10.0, "paint_weight": 5.0, "decay": 1.0}  # fmt: skip
_TINY = {"size": 32, "frames": 4, "interval": 4, "batch": 2, "validation_clips": 2, "validate_every": 2,
         "checkpoint_every": 2, "sample_every": 2, "log_every": 1}  # fmt: skip
_LONG = {"validate_every": 1000, "checkpoint_every": 1000, "sample_every": 1000, "validation_clips": 100}

VIDEO = {
    "paper": VideoConfig(steps=200_000, **_LONG),
    "recommended": VideoConfig(
        steps=50_000, batch=16, latent=16, encoder_channels=(32, 64, 128, 128), decoder_channels=(128, 128, 64, 32),
        gru_layers=2, learning_rate=4e-4, mirror=True, visits=4, **_WARP, **_LONG,
    ),
    "small": VideoConfig(
        steps=800, batch=6, latent=8, encoder_channels=(16, 24, 32, 48), decoder_channels=(32, 24, 16), gru_layers=1,
        learning_rate=2e-3, decoded=4, **_WARP, **_SMALL,
    ),
    "tiny": VideoConfig(
        steps=4, latent=4, encoder_channels=(16, 16, 16, 16), decoder_channels=(16, 16, 16, 16), gru_layers=1,
        discriminator_channels=8, discriminated=2, perceptual_weight=0.0, **_TINY,
    ),
}  # fmt: skip
CONDITION = {
    "paper": ConditionConfig(steps=100_000, **_LONG),
    "recommended": ConditionConfig(steps=20_000, batch=32, encoder="flow", mirror=True, visits=4, **_LONG),
    "small": ConditionConfig(steps=400, encoder="flow", batch=12, channels=32, learning_rate=1e-3, **_SMALL),
    "tiny": ConditionConfig(steps=4, channels=16, perceptual_weight=0.0, **_TINY),
}
MOTION = {
    "paper": MotionConfig(steps=200_000, batch=40, **_LONG),
    "recommended": MotionConfig(
        steps=100_000, batch=64, encoder="flow", form="matching", clip=1.0, width=384, blocks=10, heads=6,
        tune_condition=True, learning_rate=3e-4, mirror=True, visits=4, **_LONG,
    ),
    "small": MotionConfig(
        steps=2500, batch=24, encoder="flow", form="matching", clip=1.0, width=128, blocks=4, tune_condition=True,
        learning_rate=1e-3, warm_up=100, steps_of_level=(2, 2, 1), factor=8, **_SMALL,
    ),
    "tiny": MotionConfig(steps=4, steps_of_level=(1,), factor=2, width=16, blocks=1, heads=1, warm_up=2,
                         solver_steps=4, **_TINY),
}  # fmt: skip
