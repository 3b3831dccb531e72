"""Recipes as Dagster components, one folder each: `dg scaffold defs pipelines.components.RecipeComponent NAME`.

Empty in the repository: a project's recipes usually lie in its data folder (pipelines.project).
"""
