"""A Dagster of a test's own."""

import dagster as dg
import pytest


@pytest.fixture
def instance():
    with dg.instance_for_test() as made:
        yield made
