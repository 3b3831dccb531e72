"""The base of everything that is read from a configuration file."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen model that refuses fields it does not know, and numbers that are infinite or not a number.

    Its validator is built when it is first used: worker processes import recipes and validate none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
