"""Every choice of system 4, named, with where it comes from; and the presets.

w2l: Prajwal et al., "A lip sync expert is all you need" (2020) and its public code; ja: "speech to rtMRI with
wav2lip"; choice: neither says, or it was found better here (docs/lip_sync.md).
"""

from typing import Literal

from pydantic import Field, model_validator

from soundvid.training.system import Options

KERNEL_REACH = 51  # mel columns to each side of a frame that the regressions hear: 0.6 s and half a moment


class _Shared(Options):
    """What both stages share."""

    visits: int = Field(1, ge=1, description="windows drawn from each clip in an epoch; w2l: one of each video")
    cache_megabytes: int = Field(1024, ge=1, description="memory for decoded pictures; the rest is decoded again")
    learning_rate: float = Field(1e-4, gt=0, description="w2l: 1e-4 (Adam)")
    weight_decay: float = Field(0.0, ge=0, description="w2l: none; choice where data is little: AdamW")
    loudness_db: float = Field(0.0, ge=0, description="deviation of a random gain; w2l: none. choice: 4 dB")
    mel_noise: float = Field(0.0, ge=0, description="deviation of noise on the mel (8 units are 100 dB); w2l: none")
    masked_bands: int = Field(0, ge=0, le=40, description="most mel bands blanked in an example; w2l: none")
    masked_columns: int = Field(0, ge=0, le=8, description="most mel columns (12.5 ms each) blanked; w2l: none")
    brightness: float = Field(0.0, ge=0, le=0.5, description="deviation of log brightness; w2l: none")
    moved_pixels: int = Field(0, ge=0, le=16, description="most pixels that pictures are shifted; w2l: none")
    image_contrast: float = Field(0.0, ge=0, le=0.5, description="deviation of log contrast of the pictures; w2l: none")
    affine: float = Field(
        0.0, ge=0, le=0.3, description="deviation of the entries of a linear map about the middle, by which all "
        "pictures of an example, its reference too, are scaled, turned and sheared; w2l: none"
    )  # fmt: skip
    elastic: float = Field(
        0.0, ge=0, le=8, description="deviation in pixels of a smooth displacement, the same for all pictures of an "
        "example; w2l: none"
    )  # fmt: skip


class ExpertConfig(_Shared):
    """The sync expert: do these 5 frames and these 200 ms of sound belong together?"""

    form: Literal["wav2lip", "small"] = Field(
        "wav2lip", description="wav2lip: w2l, 16.4 M parameters; small: choice, 0.4 M, for minutes of data on a CPU"
    )
    batch: int = Field(64, ge=1, description="w2l: 64")
    least_shift: int = Field(
        1, ge=1, description="frames that a pair which does not belong together is apart; w2l: 1. choice: 3, as one "
        "frame of 40 ms is hardly noticed in slow speech"
    )  # fmt: skip
    dropout: float = Field(0.0, ge=0, lt=1, description="of the small form's embeddings; w2l: none")
    contrast: float = Field(
        0.0, ge=0, description="weight of distinguishing a batch's windows; w2l: none. choice for the small form: 1"
    )
    init: str | None = Field(None, description="a public sync expert (lipsync_expert.pth) to begin from")


class LipSyncConfig(_Shared):
    """The generator and its two discriminators."""

    form: Literal["wav2lip", "basis"] = Field(
        "wav2lip",
        description="wav2lip: 5 frames, each from its lower half blanked and a reference (w2l, ja); basis: choice, "
        "motion on the mean of a reference, many frames at once (basis.py)",
    )
    batch: int = Field(16, ge=1, description="windows; w2l: 16, 7.9 GFLOP a frame: on a CPU give 2")
    init: str | None = Field(
        None, description="the public wav2lip.pth to begin from (form wav2lip). ja fine-tunes it; without it: scratch"
    )
    mel_shift: float = Field(
        0.0, ge=-0.5, le=0.5,
        description="form wav2lip: seconds by which a frame hears later sound than its own. The public code's training "
        "hears 0.04 later, its inference 0.08: give 0.04 with its weights (init), see docs/lip_sync.md",
    )  # fmt: skip
    sync_weight: float = Field(0.03, ge=0, lt=1, description="s; w2l: 0.03, once it counts")
    sync_below: float = Field(0.75, ge=0, description="s is 0 until the evaluated sync loss falls below; w2l: 0.75")
    chance: float = Field(
        0.69, gt=0, description="an expert whose validation loss is not below has learnt nothing: s stays 0. choice"
    )
    quality_weight: float = Field(0.07, ge=0, lt=1, description="d; w2l: 0.07")
    ssim_weight: float = Field(
        0.0, ge=0, description="of 1 - SSIM of the lower half; w2l: none. choice for basis: 0.05"
    )
    warm_up: int = Field(0, ge=0, description="steps over which the learning rate grows; w2l: none")
    fall: bool = Field(False, description="the learning rate falls to 0 with the last step; w2l: constant")
    # form basis
    start: Literal["zero", "ridge"] = Field(
        "zero",
        description="ridge: begins as ridge regression from the sound about a frame to the principal maps, and learns "
        "what is missing; zero: begins with random weights of the maps. choice",
    )
    ensemble: Literal["none", "kernel_ridge", "regressions"] = Field(
        "none",
        description="kernel_ridge: motion by kernel ridge regression from 1.2 s of sound is averaged with the "
        "networks', by weights that validation clips decide; regressions: the same, with the mean of that regression "
        "and 8 small perceptrons that hear the same (perceptrons.py). choice where data is little: regressions",
    )
    strength: Literal["full", "learnt"] = Field(
        "full",
        description="learnt: motion is reduced for a speaker unlike those of the training (strength.py), to almost "
        "nothing where one speaker was learnt from; full: it never is. choice where speakers are few: learnt",
    )
    frames: int = Field(25, ge=5, le=250, description="frames of an example. choice: 1 s; shorter where clips are")
    maps: int = Field(48, ge=1, le=512, description="K. choice: 50 principal maps hold 88 % of the rtMRI's variance")
    width: int = Field(96, ge=8, description="channels of the sound's encoder. choice: 32 for minutes of data")
    dilations: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16), description="of the sound's encoder: 32 columns, 0.4 s, of context to each side. choice"
    )
    channels: tuple[int, ...] = Field((16, 32, 48, 64, 64), description="of the U-Net, 96 to 6 pixels. choice")
    dropout: float = Field(0.2, ge=0, lt=1, description="in the sound's encoder. choice")
    reference_least: int = Field(16, ge=1, description="pictures of a reference in training, at least. choice")
    reference_most: int = Field(48, ge=1, description="and at most; everything else uses up to 250. choice")

    @model_validator(mode="after")
    def _of_the_form(self) -> "LipSyncConfig":
        if self.form != "basis" and self.start == "ridge":
            raise ValueError("'start: ridge' is for the form basis: leave it out, or give form=basis")
        for name, usual in (("ensemble", "none"), ("strength", "full")):
            if self.form != "basis" and (given := getattr(self, name)) != usual:
                raise ValueError(f"'{name}: {given}' is for the form basis: leave it out, or give form=basis")
        if self.form != "wav2lip" and self.mel_shift:
            raise ValueError("'mel_shift' is for the form wav2lip and its public weights: leave it out")
        return self

    def fixed(self) -> dict[str, str]:
        found = {"steps": "with fall the learning rate of every step depends on it"} if self.fall else {}
        if self.sync_weight:
            found["validate_every"] = "the sync loss begins to count at a validation"
        return found

    @property
    def reach(self) -> int:
        """Mel columns to each side of a frame that the encoder of the form basis hears."""
        return 1 + sum(self.dilations)

    @property
    def margin(self) -> int:
        """Mel columns of context on each side of an example's frames, form basis."""
        return max(self.reach, KERNEL_REACH if self.ensemble != "none" else 0)


_LITTLE_DATA = {"loudness_db": 4.0, "mel_noise": 0.05, "masked_bands": 11, "masked_columns": 5, "brightness": 0.1}

EXPERT_PRESETS = {
    "paper": ExpertConfig(
        steps=20000, visits=16, validate_every=500, validation_clips=64, checkpoint_every=500, sample_every=500,
        average_decay=0.0, patience=10,
    ),
    "recommended": ExpertConfig(
        form="small", batch=32, steps=1500, visits=64, learning_rate=1e-3, weight_decay=0.05, least_shift=3,
        dropout=0.3, contrast=1.0, average_decay=0.99, validate_every=100, checkpoint_every=100, patience=6,
        validation_clips=256, moved_pixels=1, **_LITTLE_DATA,
    ),
    "tiny": ExpertConfig(
        form="small", batch=16, steps=150, visits=16, learning_rate=2e-3, least_shift=3, contrast=1.0,
        average_decay=0.9, validate_every=75, checkpoint_every=75, validation_clips=64,
    ),
}  # fmt: skip

PRESETS = {
    "paper": LipSyncConfig(
        steps=30000, visits=16, validate_every=500, validation_clips=16, checkpoint_every=500, sample_every=500,
        average_decay=0.0, patience=10,
    ),
    "recommended": LipSyncConfig(
        form="basis", batch=8, steps=400, visits=16, learning_rate=1e-3, weight_decay=0.2,
        ensemble="regressions", strength="learnt", width=32, dropout=0.4, maps=32,
        sync_weight=0.0, quality_weight=0.0, ssim_weight=0.05,
        warm_up=50, fall=True, average_decay=0.99,
        validate_every=50, checkpoint_every=50, sample_every=200, validation_clips=32, patience=8,
        **_LITTLE_DATA,
    ),
    "tiny": LipSyncConfig(
        form="basis", batch=4, steps=200, visits=16, learning_rate=3e-3, sync_weight=0.0, quality_weight=0.0,
        ssim_weight=0.1, warm_up=10, fall=True, average_decay=0.9, maps=8, width=32, channels=(8, 16, 16, 16, 16),
        dropout=0.0, validate_every=100, checkpoint_every=100, sample_every=100, validation_clips=8,
        reference_least=8, reference_most=16,
    ),
}  # fmt: skip
