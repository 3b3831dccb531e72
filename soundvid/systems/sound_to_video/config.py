"""What the papers leave open, and what they say, as fields: one image + sound -> video.

ja: "Video generation from one image and sound"; en: "Generating Video from Single Image and Sound". Where a field
says "choice", the papers are silent or at odds, and the field says what was taken.
"""

from typing import Literal

from pydantic import Field, model_validator

from soundvid.training.system import Options


class Config(Options):
    """System 1 and its training."""

    # What a step learns from
    frames: int = Field(
        100,
        ge=2,
        description="contiguous pictures of a clip that are learnt; paper (en 3.2): 100 of 120; ja 4.2: T = 120",
    )
    frames_per_step: int | None = Field(
        None,
        ge=2,
        description="of those, how many a step generates, in chunks at random places; null: all that fill whole "
        "chunks (of 100: 100 in chunks of 5, 96 of 16; papers: all). A CPU takes fewer; the sound encoder gets the "
        "whole clip all the same",
    )
    crop: float = Field(
        256 / 286, gt=0, le=1, description="side of the random square; en 3.2: 256 of 286; ja: none is named"
    )
    size: int = Field(64, ge=16, multiple_of=16, description="pixels of a generated side; papers: 64")
    input_frame: Literal["first", "window", "random"] = Field(
        "first",
        description="the input image in training. Choice: the papers say 'a single image'. first: of the clip; window: "
        "of the 100 pictures; random: any of the clip",
    )
    cache: int = Field(
        0,
        ge=0,
        description="MiB of decoded pictures that each reading process keeps, of square clips with crop 1 (a random "
        "square is another one in every epoch); 0: none",
    )
    # Sound
    amplitude: Literal["stored", "peak", "loudness"] = Field(
        "stored",
        description="the sound's level before all else. peak: the loudest row of what the encoder hears gets the level "
        "of a full-scale sine (papers, en 4: 'the amplitude of the sound is normalized to [-1.0, +1.0]'; per clip is a "
        "choice, and rows stand for samples, as only rows are stored); loudness: the root mean square of all rows gets "
        "a tenth of full scale; stored: as recorded. Sound is raised by 40 dB at most, so that silence stays silent",
    )
    onsets: bool = Field(
        False,
        description="the encoder also gets, for each picture, how long since the last onset and until the next, and "
        "how strong they are; papers: no",
    )
    bands: int | None = Field(
        None,
        ge=8,
        description="pool the spectrum first to so many bands of equal width in mel; null: none (papers)",
    )
    scale: Literal["linear", "log1p", "log"] = Field(
        "linear", description="of magnitudes; papers: linear (none is named). log: log(0.001 + magnitude)"
    )
    normalise: bool = Field(
        False, description="each bin to mean 0 and deviation 1 over the training clips; the papers do not"
    )
    encoder: Literal["blstm", "dilated"] = Field("blstm", description="papers: a bidirectional LSTM (ja 3.2, en 2.1)")
    encoder_width: int = Field(
        16, ge=1, description="units of each direction, or channels of the dilated convolutions. ja: k = 32 for both"
    )
    sound_gain_db: float = Field(0.0, ge=0, description="random loudness in training, plus or minus; the papers: none")
    # Pictures
    generator: Literal["unet", "film"] = Field(
        "unet",
        description="unet: pix2pix's U-Net on image and tiled sound feature, a whole pass for each picture (papers; "
        "depth and widths are a choice). film: the image is encoded once a clip, and the sound steers a decoder",
    )
    width: int = Field(64, ge=4, description="channels of the generator's finest layer; choice: pix2pix's 64")
    output: Literal["tanh", "residual", "composite"] = Field(
        "tanh",
        description="tanh: the picture (papers). With generator film also residual: what is added to the input image; "
        "composite: masks mix the input image, the input image warped by a predicted flow, and new content",
    )
    basis: int = Field(
        0,
        ge=0,
        description="with output composite: principal components of the motion in the training pictures, of which the "
        "sound, the input image and the time since it give the weights; what the masks keep of the input image is then "
        "the image with those weights. Needs a camera that stands still; papers: none",
    )
    basis_first: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps that learn the weights of the basis alone, by their squared error, which costs "
        "a quarter of a whole step; 1: the decoder never learns, and the basis alone paints",
    )
    oscillators: int = Field(
        24,
        ge=1,
        description="of the basis: motion without a sound, extrapolated from the input image at rates that are learnt",
    )
    strength: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of the basis: share of the foreseen change from the input image that is generated. What was "
        "learnt from few moments holds less for others",
    )
    most_l1: float | None = Field(
        None,
        ge=1,
        description="each validation lowers `strength`, where needed, until L1 on its clips is at most so many times "
        "that of the input image repeated; null: it stays",
    )
    variation: bool = Field(
        False,
        description="of a basis that paints alone (basis_first 1): learn how motion goes on by itself, so that "
        "`generate --sample N` shows other motions for the same sound (variation.py). Without --sample nothing changes",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=10,
        description="in generating, not in training: pictures are made with the sound and with silence, and what is "
        "shown lies so many times as far from the latter as the former does, as Syncphony and AVSyncD guide diffusion. "
        "1: the pictures of the sound alone",
    )
    painted_per_step: int | None = Field(
        None,
        ge=2,
        description="of a step's pictures, how many of each clip the decoder paints (whole chunks at random places); "
        "the basis learns from all. null: all",
    )
    norm: Literal["batch", "group", "none"] = Field("batch", description="choice: pix2pix's BatchNorm")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="in training, after the U-Net's two 512-channel ups that follow the coarsest; papers: none is "
        "named (ja 3.3, en 2.2); pix2pix: 0.5",
    )
    # Discriminators
    video_discriminator: Literal["stacked", "3d"] = Field(
        "stacked",
        description="stacked: tau pictures as 3 tau channels (ja 3.4); 3d: MoCoGAN's 3-D convolutions (en 2.2)",
    )
    chunk: int = Field(5, ge=1, description="tau, contiguous pictures the video discriminator gets; ja 4.2: 5")
    discriminator_width: int = Field(64, ge=4, description="choice: PatchGAN of 3 layers from 64 channels")
    discriminated: Literal["one", "all"] = Field(
        "all",
        description="what of a clip the discriminators see in a step: one picture and one chunk (en 2.3, Gamma_1 and "
        "Gamma_T), or all (ja 3.4: 'every tau frames')",
    )
    discriminator_hears: bool = Field(
        False,
        description="the video discriminator (stacked) gets the sound as well, and real pictures with wrong sound are "
        "fakes too",
    )
    # Losses and optimiser
    adversarial: Literal["bce", "saturating", "hinge"] = Field(
        "bce", description="choice: non-saturating cross-entropy; en 2.3 writes the saturating form"
    )
    alpha: float = Field(100.0, ge=0, description="weight of L1; ja 4.2: 100; en 2.3: 1 (it gives no weight)")
    reconstruction: Literal["mean", "sum"] = Field(
        "mean",
        description="L1 as a mean over pixels, or as a sum over a clip's (mean over the batch). en (5) writes a norm, "
        "which read as it stands is the sum; next to losses of order 1 that leaves the discriminators no say. Choice: "
        "mean",
    )
    beta: float = Field(1.0, ge=0, description="weight of the image discriminator; both papers: 1")
    gamma: float = Field(1.0, ge=0, description="weight of the video discriminator; both papers: 1")
    squared: float = Field(
        0.0,
        ge=0,
        description="weight of the mean squared error, in [-1, 1] pixels, next to alpha; papers: none. L1's best guess "
        "is the median, and a median hand does not clap",
    )
    motion: float = Field(
        0.0,
        ge=0,
        description="weight of the local motion energy's error: mean |x[t] - x[t-1]| over blocks of 8 x 8 pixels, "
        "generated and real, inside chunks; papers: none. Pictures that are each a blurred best guess move too little",
    )
    half_size: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps that learn pictures of half the size first, by the level before the last "
        "(generator film); papers: none",
    )
    learning_rate: float = Field(2e-4, gt=0, description="of sound encoder and generator; both papers: 0.0002")
    discriminator_learning_rate: float = Field(2e-4, gt=0, description="both papers: 0.0002")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam; both papers: 0.5")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam; both papers: 0.999")
    warmup: int = Field(0, ge=0, description="steps over which the learning rate rises; papers: none")
    fall: bool = Field(False, description="the learning rate falls along a cosine to 0 with the last step; papers: no")
    clip: float | None = Field(None, gt=0, description="largest norm of the generator's gradient; papers: none")
    initial: Literal["normal", "default"] = Field("normal", description="choice: N(0, 0.02) as pix2pix; or torch's own")

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.video_discriminator == "3d" and self.gamma and self.chunk < 16:
            raise ValueError("video_discriminator 3d needs chunk 16 or more: its convolutions take 15 pictures away")
        of_step = min(self.frames, self.frames_per_step or self.frames)
        if self.chunk > of_step:
            raise ValueError(f"chunk {self.chunk} is longer than the {of_step} frames of a step")
        if not (self.alpha or self.squared or self.beta or self.gamma):
            raise ValueError("alpha, squared, beta and gamma are all 0: there is nothing to learn from")
        if self.output != "tanh" and self.generator != "film":
            raise ValueError(f"output {self.output} needs generator film: the U-Net gives the picture itself")
        if self.basis and (self.generator != "film" or self.output != "composite"):
            raise ValueError("basis needs generator film and output composite: masks decide what is kept of it")
        for name, given in (
            ("basis_first", self.basis_first > 0),
            ("strength", self.strength < 1),
            ("most_l1", self.most_l1 is not None),
        ):
            if given and not self.basis:
                raise ValueError(f"{name} needs a basis: set basis above 0, or leave {name} out")
        if self.variation and not (self.basis and self.basis_first == 1):
            raise ValueError("variation needs a basis and basis_first=1: it varies what the basis paints")
        if self.half_size and self.generator != "film":
            raise ValueError("half_size needs generator film: the U-Net has one size")
        if self.half_size and (self.beta or self.gamma):
            raise ValueError("half_size needs beta=0 and gamma=0: the discriminators have one size")
        if self.motion and self.chunk < 2:
            raise ValueError("motion needs chunk 2 or more: it compares neighbouring pictures of a chunk")
        if self.dropout and self.generator != "unet":
            raise ValueError("dropout is the U-Net's: generator film has none")
        if self.discriminator_hears and not (self.gamma and self.video_discriminator == "stacked"):
            raise ValueError("discriminator_hears needs video_discriminator stacked and a gamma above 0")
        if self.generator == "unet" and self.size != 64:
            raise ValueError("the U-Net goes down to 1x1 from 64x64: size must be 64 (generator film takes others)")
        if self.video_discriminator == "3d" and self.gamma and self.size < 64:
            raise ValueError("video_discriminator 3d goes down to 1x1 from 64x64: size must be 64 or more")
        critics = self.beta > 0 or self.gamma > 0
        if critics and self.size < 32:
            raise ValueError("discriminators need pictures of size 32 or more (or beta=0 and gamma=0)")
        widths = {"width": self.width} | ({"discriminator_width": self.discriminator_width} if critics else {})
        for name, wide in widths.items() if self.norm == "group" else ():
            if any(c % min(8, c // 4) for c in (wide, 2 * wide, 4 * wide)):
                raise ValueError(f"{name} {wide} cannot be normalised in groups: take 4, 12, 20, or a multiple of 8")
        if self.painted_per_step is not None and self.chunk > self.painted_per_step:
            raise ValueError(f"chunk {self.chunk} is longer than the {self.painted_per_step} pictures that are painted")
        return self

    def fixed(self) -> dict[str, str]:
        if self.fall or self.half_size or 0 < self.basis_first < 1:
            return {"steps": "with fall, half_size or basis_first every step depends on how many there are"}
        return {}


RECOMMENDED = Config(
    batch=8,
    frames=120,
    frames_per_step=40,
    painted_per_step=4,
    chunk=2,
    crop=1.0,
    input_frame="random",
    amplitude="loudness",
    onsets=True,
    sound_gain_db=12.0,
    bands=48,
    scale="log",
    normalise=True,
    encoder="dilated",
    encoder_width=128,
    generator="film",
    width=32,
    output="composite",
    basis=96,
    basis_first=1.0,
    cache=512,
    norm="group",
    beta=0.0,
    gamma=0.0,
    squared=200.0,
    motion=100.0,
    learning_rate=2e-3,
    beta1=0.9,
    warmup=50,
    fall=True,
    clip=1.0,
    initial="default",
    validation_clips=16,
)
# The papers' values, by section. ja 4.2: T = 120 pictures of 64x64, tau = 5, k = 32 (2 x 16), Adam 2e-4, 0.5 and 0.999,
# alpha 100, beta 1, gamma 1; no crop and no average of weights are named, so there are none, and BatchNorm generates
# with the statistics gathered with the very weights that generate. en 3.1: 100 of 120 pictures, a random 256x256 of
# 286x286; en 2.3, 3.2: saturating loss, weights 1 and 1, batch 2; en 4: amplitude in [-1, 1].
PRESETS: dict[str, Config] = {
    "paper_ja": Config(frames=120, crop=1.0, amplitude="peak", average_decay=0.0, validation_clips=16),
    "paper_en": Config(
        video_discriminator="3d",
        chunk=16,
        discriminated="one",
        adversarial="saturating",
        alpha=1.0,
        amplitude="peak",
        average_decay=0.0,
        validation_clips=16,
    ),
    "recommended": RECOMMENDED,
    # Its trainings are cut short by a clock or by few steps: nothing in it depends on how many steps there are.
    "tiny": RECOMMENDED.model_copy(
        update={
            "steps": 300,
            "fall": False,
            "basis_first": 1.0,
            "batch": 4,
            "frames_per_step": 40,
            "encoder_width": 64,
            "width": 16,
            "average_decay": 0.98,
            "validate_every": 100,
            "sample_every": 100,
            "checkpoint_every": 100,
            "validation_clips": 8,
        }
    ),
}
