"""The base of everything that users write: recipes, presets, options of features."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen; unknown fields, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
