"""The three stages of system 2: the baselines, the model by likelihood, and the model fine-tuned.

All work on standardised features (`Features`), which are fitted on training clips once and kept as tensors of the run.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.errors import SoundvidError
from soundvid.systems.deep_relational.config import Config
from soundvid.systems.deep_relational.data import Form, RelationExamples
from soundvid.systems.deep_relational.networks import DeepRelationalModel, FeedForward
from soundvid.training.system import Batch, Examples, Metrics, System

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the linear regression, as a share of the number of moments
HELD_OUT = 5  # every fifth training clip chooses among them
GAIN_EVERY, MOST_GAIN = 10, 4.0  # steps between measures of the global variance; and its largest correction
LINEAR_CLIPS, MOST_DRAWS = 400, 4  # training clips that the linear regression is fitted on, at most; of one clip


class Relation(System):
    """What the stages share: features to visible units and back, one side from the other for a whole clip."""

    monitor: ClassVar[str] = "loss"
    config: Config

    def __init__(self, config: Config, facts: dict[str, Any]) -> None:
        self.config, self.form = config, Form.of(facts)
        components, coefficients = facts["components"], self.form.speech.order + 1
        (size,) = self.form.lips.row_shape
        self.lips_taps, self.speech_taps = len(config.lips_offsets), len(config.speech_offsets)
        self.x, self.y = components * self.lips_taps, coefficients * self.speech_taps
        self.tensors = {
            "picture_mean": torch.zeros(size),
            "basis": torch.zeros(components, size),
            "deviation": torch.ones(components),
            "speech_mean": torch.zeros(coefficients),
            "speech_deviation": torch.ones(coefficients),
            # Global variance: deviations of what is generated are multiplied by these.
            "picture_gain": torch.ones(components),
            "speech_gain": torch.ones(coefficients),
        }

    def prepare(self, examples: Examples) -> None:
        assert isinstance(examples, RelationExamples)
        found = examples.statistics
        self.tensors = {
            **self.tensors,
            **{name: torch.from_numpy(value).to(self.device) for name, value in vars(found).items()},
        }

    # -- features and visible units

    def components(self, pictures: Tensor, mean: Tensor) -> Tensor:
        """DCT rows `... P D` less `mean` -> standardised principal components `... P K`."""
        return (pictures - mean) @ self.tensors["basis"].T / self.tensors["deviation"]

    def pictures(self, components: Tensor, mean: Tensor) -> Tensor:
        """The inverse: DCT rows, but for what the components leave out."""
        return components * self.tensors["deviation"] @ self.tensors["basis"] + mean

    def standardised(self, speech: Tensor, mean: Tensor) -> Tensor:
        """Mel-cepstra `... S M` less `mean`, over their deviation."""
        return (speech - mean) / self.tensors["speech_deviation"]

    def cepstra(self, standardised: Tensor, mean: Tensor) -> Tensor:
        """The inverse."""
        return standardised * self.tensors["speech_deviation"] + mean

    def x_at(self, components: Tensor, place: Tensor) -> Tensor:
        """Visible layer x at places `B R` among pictures, of components `B P K`: `B R taps*K`."""
        rate = float(self.form.fps)
        return torch.cat([interpolated(components, place + o * rate) for o in self.config.lips_offsets], -1)

    def y_at(self, standardised: Tensor, row: Tensor) -> Tensor:
        """Visible layer y at rows `B R`, of standardised mel-cepstra `B S M`: `B R speech_taps*M`."""
        rate, offsets = float(self.form.speech.rate), self.config.speech_offsets
        around = averaged(standardised, self.form.averaged_rows(self.config))
        return torch.cat([interpolated(around if o else standardised, row + o * rate) for o in offsets], -1)

    def visible(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The visible layers x and y of a batch's moments, under each other: `B*R X` and `B*R Y`, float32."""
        with torch.autocast(batch["speech"].device.type, enabled=False):
            # Without means of its own (relative_to: training) an example is relative to the training clips' means.
            means = [
                batch[name][:, None].float() if name in batch else self.tensors[name]
                for name in ("picture_mean", "speech_mean")
            ]
            if "projected" in batch:
                projected = batch["projected"].float() - means[0] @ self.tensors["basis"].T
                shown = projected / self.tensors["deviation"]
            else:
                shown = self.components(batch["pictures"].float(), means[0])
            heard = self.standardised(batch["speech"].float(), means[1])
            x = self.x_at(shown, batch["place"].float())
            y = self.y_at(heard, batch["row"].float())
        return x.flatten(0, 1), y.flatten(0, 1)

    @abstractmethod
    def to_speech(self, x: Tensor) -> Tensor:
        """Visible layer y, `N Y`, of visible layer x, `N X`."""

    @abstractmethod
    def to_lips(self, y: Tensor) -> Tensor:
        """Visible layer x, `N X`, of visible layer y, `N Y`."""

    def speech_error(self, wanted: Tensor, found: Tensor) -> Tensor:
        return squared_error(wanted, found, self.speech_taps, self.config.middle_share)

    def lips_error(self, wanted: Tensor, found: Tensor) -> Tensor:
        return squared_error(wanted, found, self.lips_taps, self.config.middle_share)

    def follow_gains(self, x: Tensor, y: Tensor, step: int, moments: int) -> None:
        """Follow how much less than the real features the predicted ones vary, over training moments.

        `moments` of them, one after another, are of the same example.
        """
        config = self.config
        if not config.variance or step % GAIN_EVERY:
            return
        self.eval()
        with torch.no_grad():
            pairs = {
                "speech_gain": (self.to_speech(x), y, self.speech_taps),
                "picture_gain": (self.to_lips(y), x, self.lips_taps),
            }
        self.train()
        share = min(0.95, (1 + step / GAIN_EVERY) / (10 + step / GAIN_EVERY))
        for name, (*sides, taps) in pairs.items():
            made, real = (centre(side, taps) for side in sides)
            if config.variance_form == "each":
                now = (real.std(0) / made.std(0).clamp(min=1e-6)).clamp(1, MOST_GAIN) ** config.variance
            else:
                of_made, of_real = (side.unflatten(0, (-1, moments)).var(1).mean(0) for side in (made, real))
                now = restoring(of_made, of_real, config.variance)
            self.tensors = {**self.tensors, name: share * self.tensors[name] + (1 - share) * now}

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        share = max(0.05, 1 - step / self.config.steps) if self.config.fall else 1.0
        return self.config.learning_rate * share

    def set_rate(self, step: int) -> None:
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)

    def noisy(self, visible: Tensor) -> Tensor:
        return visible + self.config.noise * torch.randn_like(visible) if self.config.noise else visible

    def adam(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), self.config.learning_rate, weight_decay=self.config.weight_decay)


def interpolated(rows: Tensor, place: Tensor) -> Tensor:
    """Rows `B N K` at places `B R` between them, linearly: `B R K`; outside, the first or the last row."""
    last = rows.shape[1] - 1
    place = place.clamp(0, last)
    low = place.floor().long().clamp(max=max(0, last - 1))
    share = (place - low)[..., None]

    def take(index: Tensor) -> Tensor:
        return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))

    return take(low) * (1 - share) + take((low + 1).clamp(max=last)) * share


def averaged(rows: Tensor, count: int) -> Tensor:
    """Each of rows `B N K` as the mean of the `count` (odd) about it; beyond the ends the first and the last again."""
    if count == 1:
        return rows
    half = count // 2
    wide = functional.pad(rows.transpose(1, 2), (half, half), mode="replicate")
    return functional.avg_pool1d(wide, count, stride=1).transpose(1, 2)


def restoring(made: Tensor, real: Tensor, share: float) -> Tensor:
    """Factors `K` with which variances `made` `K` sum to `share` of the sum of those of `real`.

    They are alike, as that costs least-squares predictions the least, but that none makes a feature vary more than the
    real one does, none is below 1 and none above MOST_GAIN.
    """
    most = (real / made.clamp(min=1e-12)).sqrt().clamp(1, MOST_GAIN)
    low, high = 1.0, MOST_GAIN
    for _ in range(30):
        middle = (low + high) / 2
        enough = (made * most.clamp(max=middle).square()).sum() > share * real.sum()
        low, high = (low, middle) if enough else (middle, high)
    return most.clamp(max=high)


def centre(visible: Tensor, taps: int) -> Tensor:
    """The middle tap of a visible layer `... taps*K`: `... K`."""
    return visible.unflatten(-1, (taps, -1))[..., taps // 2, :]


def r_squared(wanted: Tensor, found: Tensor) -> Tensor:
    """The share of the standardised features' variance about 0 that is explained."""
    return 1 - (wanted - found).square().mean() / wanted.square().mean().clamp(min=1e-9)


def squared_error(wanted: Tensor, found: Tensor, taps: int, middle: float | None) -> Tensor:
    """The mean over visible layers `N taps*K`; the middle tap counts `middle` of it, by default as much as others."""
    each = (wanted - found).square().unflatten(-1, (taps, -1)).mean((0, 2))
    if middle is None or taps == 1:
        return each.mean()
    own = each[taps // 2]
    return middle * own + (1 - middle) * (each.sum() - own) / (taps - 1)


def errors(system: Relation, batch: Batch, y: Tensor, x: Tensor) -> Metrics:
    """Mean squared errors of predicted visible layers, and R squared at their moments."""
    real_x, real_y = system.visible(batch)
    return {
        "loss": system.speech_error(real_y, y) + system.lips_error(real_x, x),
        "r2_speech": r_squared(*(centre(side, system.speech_taps) for side in (real_y, y))),
        "r2_lips": r_squared(*(centre(side, system.lips_taps) for side in (real_x, x))),
    }


class BaselineSystem(Relation):
    """A network drawn at random for each direction (the paper's baseline), and linear regression."""

    name: ClassVar[str] = "deep_relational"

    def __init__(self, config: Config, facts: dict[str, Any]) -> None:
        super().__init__(config, facts)
        hidden = config.hidden
        self.networks = {
            "to_speech": FeedForward((self.x, *hidden, self.y), config.dropout),
            "to_lips": FeedForward((self.y, *reversed(hidden), self.x), config.dropout),
        }
        self.call = dict(self.networks)
        self.optimizers = {name: self.adam(network) for name, network in self.networks.items()}
        self.tensors = {
            **self.tensors,
            "linear_to_speech": torch.zeros(self.x + 1, self.y),
            "linear_to_lips": torch.zeros(self.y + 1, self.x),
        }

    def prepare(self, examples: Examples) -> None:
        super().prepare(examples)
        every = max(1, len(examples) // LINEAR_CLIPS)
        draws = min(MOST_DRAWS, -(-LINEAR_CLIPS // len(examples)))  # of a clip's moments, where there are few clips
        clips = [
            self.visible(
                {k: torch.from_numpy(np.asarray(v))[None].to(self.device) for k, v in examples.example(i, draw).items()}
            )
            for i in range(0, len(examples), every)
            for draw in range(draws)
        ]
        x, y = (torch.cat([c[side] for c in clips]).double() for side in (0, 1))
        kept_out = torch.cat([torch.full((len(c[0]),), i // draws % HELD_OUT == 0) for i, c in enumerate(clips)])
        if kept_out.all():
            kept_out = torch.arange(len(kept_out)) % HELD_OUT == 0
        weights = {"linear_to_speech": fitted(x, y, kept_out), "linear_to_lips": fitted(y, x, kept_out)}
        self.tensors = {**self.tensors, **{name: w.float() for name, w in weights.items()}}

    def to_speech(self, x: Tensor) -> Tensor:
        return self.call["to_speech"](x)

    def to_lips(self, y: Tensor) -> Tensor:
        return self.call["to_lips"](y)

    def linear(self, visible: Tensor, name: str) -> Tensor:
        """`linear_to_speech` of x, or `linear_to_lips` of y."""
        weights = self.tensors[name]
        return visible @ weights[1:] + weights[0]

    def training_step(self, batch: Batch, step: int) -> Metrics:
        self.set_rate(step)
        x, y = self.visible(batch)
        speech = self.speech_error(y, self.to_speech(self.noisy(x)))
        lips = self.lips_error(x, self.to_lips(self.noisy(y)))
        self.update("to_speech", speech)
        self.update("to_lips", lips)
        self.follow_gains(x, y, step, batch["row"].shape[1])
        return {"loss": (speech + lips).detach(), "speech": speech.detach(), "lips": lips.detach()}

    def validation_step(self, batch: Batch) -> Metrics:
        x, y = self.visible(batch)
        linear = errors(self, batch, self.linear(x, "linear_to_speech"), self.linear(y, "linear_to_lips"))
        own = errors(self, batch, self.to_speech(x), self.to_lips(y))
        return {**own, **{f"linear_{name}": value for name, value in linear.items()}}


def _products(into: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    ones = torch.cat([into.new_ones(len(into), 1), into], 1)
    return ones.T @ ones, ones.T @ out


def _solved(squares: Tensor, products: Tensor, count: int, strength: float) -> Tensor:
    """Ridge regression with the penalty strength * count * |w|^2, the constant apart."""
    penalty = strength * count * torch.eye(len(squares), dtype=squares.dtype, device=squares.device)
    penalty[0, 0] = 1e-9
    return torch.linalg.solve(squares + penalty, products)


def fitted(into: Tensor, out: Tensor, kept_out: Tensor) -> Tensor:
    """Weights (1 + X, Y), the constant first, of ridge regression of `out` from `into`.

    Its strength is the one that predicts the moments in `kept_out` (bool) best from the others.
    """
    apart, rest = _products(into[kept_out], out[kept_out]), _products(into[~kept_out], out[~kept_out])
    count = int((~kept_out).sum())

    def error(strength: float) -> float:
        weights = _solved(*rest, count, strength)
        return float((into[kept_out] @ weights[1:] + weights[0] - out[kept_out]).square().sum())

    best = min(RIDGES, key=error)
    return _solved(apart[0] + rest[0], apart[1] + rest[1], len(into), best)


class _ModelSystem(Relation):
    """A stage that trains the model."""

    name: ClassVar[str] = "deep_relational"

    def __init__(self, config: Config, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> None:
        super().__init__(config, facts)
        for name, run in earlier.items():
            theirs = run.system.config.shared  # type: ignore[attr-defined]
            wrong = [k for k, v in config.shared.items() if theirs[k] != v]
            if wrong:
                raise SoundvidError(
                    f"{run.folder.path}: stage '{name}' was trained with another {wrong[0]} ({theirs[wrong[0]]}, here "
                    f"{config.shared[wrong[0]]}); name another folder for another run"
                )
        model = DeepRelationalModel(
            self.x, self.y, config.hidden, config.dropout, config.least_variance, 0.5 if config.centred else 0.0,
            config.first_weights,
        )  # fmt: skip
        self.networks = {"model": model}
        self.call = dict(self.networks)
        self.optimizers = {"model": self.adam(self.networks["model"])}

    @property
    def model(self) -> DeepRelationalModel:
        """The network itself, or its average: it has more methods than the call that torch.compile would compile."""
        network = self.networks["model"]
        assert isinstance(network, DeepRelationalModel)
        return network


class LikelihoodSystem(_ModelSystem):
    """The model by maximum likelihood: mean fields with the data given, samples by block Gibbs without."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> None:
        super().__init__(config, facts, earlier)
        chains = config.batch * config.rows
        if config.negative == "persistent":
            sizes = {"x": self.x, **{f"h{n}": size for n, size in enumerate(config.hidden)}, "y": self.y}
            empty = {f"chain_{name}": torch.zeros(chains, size) for name, size in sizes.items()}
            self.tensors = {**self.tensors, **empty}

    def prepare(self, examples: Examples) -> None:
        super().prepare(examples)
        for name, chain in self.tensors.items():
            if name.startswith("chain_"):
                drawn = torch.randn(chain.shape) if name in ("chain_x", "chain_y") else torch.rand(chain.shape).round()
                self.tensors = {**self.tensors, name: drawn.to(chain)}

    def training_step(self, batch: Batch, step: int) -> Metrics:
        """loss = mean E(data) - mean E(samples): its gradient is that of the negative log likelihood."""
        self.set_rate(step)
        config, model = self.config, self.model
        x, y = self.visible(batch)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                h = model.posterior(x, y, config.sweeps)
                if config.negative == "persistent":
                    chain = [self.tensors[f"chain_h{n}"] for n in range(model.layers)]
                    begin = self.tensors["chain_x"], chain, self.tensors["chain_y"]
                else:
                    begin = x, [torch.bernoulli(layer) for layer in h], y
                other_x, other_h, other_y = model.gibbs(*begin, config.gibbs)
                if config.negative == "persistent":
                    kept = {f"chain_h{n}": layer for n, layer in enumerate(other_h)}
                    self.tensors = {**self.tensors, **kept, "chain_x": other_x, "chain_y": other_y}
            data, samples = model.energy(x, h, y).mean(), model.energy(other_x, other_h, other_y).mean()
            gradient = self.update("model", data - samples, clip=10.0)
        return {
            "loss": (data - samples).detach(),
            "energy_gap": (data - samples).detach(),
            "energy_data": data.detach(),
            "energy_samples": samples.detach(),
            "gradient": gradient,
        }

    def to_speech(self, x: Tensor) -> Tensor:
        return self.model.infer_y(x, self.config.inference)

    def to_lips(self, y: Tensor) -> Tensor:
        return self.model.infer_x(y, self.config.inference)

    def validation_step(self, batch: Batch) -> Metrics:
        x, y = self.visible(batch)
        return errors(self, batch, self.to_speech(x), self.to_lips(y))


class FineTuningSystem(_ModelSystem):
    """The model's weights as two feed-forward networks, trained to predict each side from the other at once."""

    def __init__(self, config: Config, facts: dict[str, Any], earlier: "Mapping[str, OpenRun]") -> None:
        super().__init__(config, facts, earlier)
        self.averaged = ("model",) if config.average_decay else ()  # type: ignore[misc]
        if "likelihood" in earlier:
            self.networks["model"].load_state_dict(earlier["likelihood"].system.networks["model"].state_dict())

    def to_speech(self, x: Tensor) -> Tensor:
        return self.model.forward_y(x)

    def to_lips(self, y: Tensor) -> Tensor:
        return self.model.forward_x(y)

    def training_step(self, batch: Batch, step: int) -> Metrics:
        self.set_rate(step)
        x, y = self.visible(batch)
        speech = self.speech_error(y, self.to_speech(self.noisy(x)))
        lips = self.lips_error(x, self.to_lips(self.noisy(y)))
        gradient = self.update("model", speech + lips, clip=10.0)
        self.follow_gains(x, y, step, batch["row"].shape[1])
        return {
            "loss": (speech + lips).detach(), "speech": speech.detach(), "lips": lips.detach(), "gradient": gradient,
        }  # fmt: skip

    def validation_step(self, batch: Batch) -> Metrics:
        x, y = self.visible(batch)
        return errors(self, batch, self.to_speech(x), self.to_lips(y))
