"""Every choice of system 2, named, with where it comes from; and the presets.

ja: "deep relational model, lips and speech"; Nakashika: the DRM paper it builds on (2018); choice: neither says, or it
was found better here (docs/deep_relational.md).
"""

from typing import Literal

from pydantic import Field, model_validator

from soundvid.training.system import Options


class Config(Options):
    """One config for all three stages; those that share weights or features must agree on what is above the line."""

    hidden: tuple[int, ...] = Field((100, 100), min_length=1, description="units of each hidden layer; ja: 2 x 100")
    variance_share: float = Field(0.99, gt=0, le=1, description="of the training pictures, kept by the PCA; choice")
    most_components: int = Field(64, ge=1, le=512, description="of the PCA, at most; choice")
    taps: int = Field(1, ge=1, le=41, description="moments of each side that a visible layer holds; ja: one. odd")
    tap_seconds: float = Field(0.04, gt=0, le=0.5, description="between them; choice: a video frame")
    speech_taps: int | None = Field(
        None, ge=1, le=41, description="moments that the layer of speech holds; null: taps, one every tap_seconds. odd"
    )
    speech_tap_seconds: float = Field(
        0.04, gt=0, le=0.5, description="between moments of speech where speech_taps is set; choice: a video frame"
    )
    speech_averaged: bool = Field(
        False,
        description="moments of speech about the middle one are averages over the time between two, and not rows of "
        "25 ms of which most are left out",
    )
    relative_to: Literal["training", "source"] = Field(
        "training",
        description="what is subtracted from features: the mean of all training clips (ja has one speaker), or that of "
        "the same source, which says nothing of the relation but all of who speaks. choice for many speakers: source",
    )
    scaling: Literal["each", "common"] = Field(
        "each",
        description="each: every feature has deviation 1 (choice for ja, which is silent); common: lips are divided by "
        "one number, and c1 to c_order by another, so that errors count as they do in pictures and in distortion",
    )
    variance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="what is restored of the variance over time of what is generated (Toda and Tokuda, 2007, global "
        "variance); variance_form says how; ja: nothing",
    )
    variance_form: Literal["each", "side"] = Field(
        "each",
        description="each: a factor for every feature, about the training mean: its missing deviation to the power of "
        "`variance`. side: one factor for the lips and one for the speech, about the clip's own mean, so that training "
        "examples vary `variance` times as much as real ones, and no feature more than it does. choice: side costs "
        "the least accuracy where predictions are least squares",
    )
    window_average: bool = Field(
        False,
        description="lips are the mean of what all layers that hold their moment predict, and not of one layer's "
        "middle alone; for every method. choice",
    )
    centred: bool = Field(
        False,
        description="hidden units stand for h - 1/2 (Montavon and Mueller, 2012); ja, Nakashika: h. choice: fewer "
        "steps are needed, as one set of biases serves both directions (docs/deep_relational.md)",
    )
    first_weights: float = Field(
        0.1, gt=0, le=2, description="deviation of the model's first weights, over sqrt(inputs + outputs). choice"
    )
    least_variance: float = Field(
        0.018,
        gt=0,
        le=1,
        description="of a visible unit; the inputs of hidden layers are divided by it, so a small one lets the least "
        "of the components decide. choice",
    )
    # -- what a stage may have of its own
    middle_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the squared error that is of a layer's middle moment, which is what is generated; null: "
        "every moment of a layer counts the same. Baselines and fine-tuning. choice",
    )
    frames: int = Field(25, ge=2, le=1000, description="pictures of a clip in an example, at most; choice")
    rows: int = Field(64, ge=1, description="moments drawn from them; neighbours are alike, so all cost more")
    learning_rate: float = Field(1e-3, gt=0, description="Adam; choice")
    weight_decay: float = Field(0.0, ge=0, description="AdamW; ja: none said")
    dropout: float = Field(0.0, ge=0, lt=1, description="of hidden means, DNN and fine-tuning; ja: none said")
    noise: float = Field(0.0, ge=0, description="deviation of noise on standardised inputs, DNN and fine-tuning")
    fall: bool = Field(True, description="the learning rate falls to a twentieth with the last step; choice")
    sweeps: int = Field(10, ge=1, description="mean-field sweeps of the positive phase; choice")
    negative: Literal["contrastive", "persistent"] = Field(
        "contrastive", description="chains of the negative phase: from the data (CD-k), or kept from step to step"
    )
    gibbs: int = Field(3, ge=1, description="k: block Gibbs sweeps of a step's negative phase; choice: 1 learnt less")
    inference: int = Field(20, ge=1, description="sweeps of the model before fine-tuning, x to y and y to x")

    @model_validator(mode="after")
    def _odd(self) -> "Config":
        for name, taps in (("taps", self.taps), ("speech_taps", self.speech_taps)):
            if taps is not None and taps % 2 == 0:
                raise ValueError(f"{name} {taps}: an odd number is needed, as many before as after")
        return self

    @property
    def lips_offsets(self) -> list[float]:
        """Where the moments of the lips' layer lie, in seconds from its middle."""
        return _offsets(self.taps, self.tap_seconds)

    @property
    def speech_offsets(self) -> list[float]:
        """Where the moments of the speech's layer lie, in seconds from its middle."""
        if self.speech_taps is None:
            return self.lips_offsets
        return _offsets(self.speech_taps, self.speech_tap_seconds)

    @property
    def shared(self) -> dict[str, object]:
        """What all stages of a run must have alike."""
        names = (
            "hidden", "variance_share", "most_components", "taps", "tap_seconds", "speech_taps", "speech_tap_seconds",
            "speech_averaged", "relative_to", "scaling", "variance", "variance_form", "window_average", "inference",
            "least_variance", "centred",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _offsets(taps: int, seconds: float) -> list[float]:
    return [k * seconds for k in range(-(taps // 2), taps // 2 + 1)]


_PAPER = {
    "batch": 8, "learning_rate": 3e-3, "average_decay": 0.0, "validate_every": 100, "checkpoint_every": 500,
    "sample_every": 1_000_000, "validation_clips": 64, "log_every": 20,
}  # fmt: skip
# With common scaling each component counts as much as it is seen, so there may be many. Five moments of the lips over a
# third of a second are half the weights of nine that are 40 ms apart. Lips follow 0.8 s of sound, averaged over 40 ms.
_RECOMMENDED = {
    **_PAPER, "variance_share": 0.999, "most_components": 128, "taps": 5, "tap_seconds": 0.08, "hidden": (128, 128),
    "speech_taps": 21, "speech_averaged": True, "relative_to": "source", "scaling": "common", "least_variance": 0.37,
    "centred": True, "first_weights": 1.0, "window_average": True, "variance": 0.75, "variance_form": "side",
    "frames": 75, "rows": 32,
}  # fmt: skip
_REGULARISED = {"dropout": 0.15, "noise": 0.3, "weight_decay": 0.01, "patience": 8, "middle_share": 0.25}
_TINY = {
    **_PAPER,
    "learning_rate": 5e-3,
    "hidden": (24, 24),
    "validate_every": 50,
    "checkpoint_every": 50,
    "validation_clips": 8,
}

BASELINES = {
    "paper": Config(**_PAPER, steps=800),
    "recommended": Config(**_RECOMMENDED, **_REGULARISED, steps=800),
    "tiny": Config(**_TINY, steps=150),
}
# Few and small steps: a choice. Before fine-tuning `paper` predicts hardly more than the mean.
LIKELIHOOD = {
    "paper": Config(**{**_PAPER, "learning_rate": 5e-4}, steps=300),
    "recommended": Config(**{**_RECOMMENDED, "learning_rate": 3e-4}, steps=100),
    "tiny": Config(**_TINY, steps=150),
}
FINE_TUNING = {
    "paper": Config(**_PAPER, steps=800),
    "recommended": Config(**_RECOMMENDED, **_REGULARISED, steps=800),
    "tiny": Config(**_TINY, steps=150),
}
