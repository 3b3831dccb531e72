"""What stands in the graph for a recipe that cannot be used: one asset that says why."""

import dagster as dg


def broken_recipe(group: str, error: str) -> dg.AssetsDefinition:
    """The only asset of a group whose recipe is wrong. What was made with the recipe before stays as it is."""

    @dg.asset(
        name="broken_recipe",
        key_prefix=group,
        group_name=group,
        kinds={"yaml"},
        metadata={"error": error},
        description=f"**This recipe cannot be used:** `{error}`\n\nFix it and reload the definitions. Until then "
        "nothing of it is processed or released; its dataset and the other recipes are not touched.",
    )
    def asset() -> None:
        raise dg.Failure(error, allow_retries=False)

    return asset
