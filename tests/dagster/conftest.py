"""A Dagster of a test's own."""

import sqlite3

import dagster as dg
import pytest
from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def _leave_writing_to_the_system(connection: object, record: object) -> None:
    """Dagster opens and closes its SQLite files with each event, and SQLite waits for the disk at every one.

    That protects records against a power cut, which no test can make: what is killed loses nothing either way. In the
    processes of tests.helpers.dagster_world.Live, Dagster's own setting stands.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def instance():
    """Its records in memory, for half the time; on disk they are in test_history, test_alerts and test_deploy."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance_on_disk():
    """Schedules are evaluated for nothing less."""
    with dg.instance_for_test() as made:
        yield made
