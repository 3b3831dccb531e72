"""One connection to Dagster's records for all ticks of a sensor.

Dagster opens its records anew for each tick of a sensor: that is three quarters of the CPU time of a tick that finds
nothing new, and each time a little memory is lost for ever (alembic registers a function for the process's end).
"""

from functools import cache
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import deserialize_value, serialize_value


@cache
def _instance(ref: str) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(deserialize_value(ref, InstanceRef))


def with_lasting_instance(sensor: dg.SensorDefinition) -> dg.SensorDefinition:
    """The same sensor; its ticks share one instance for as long as their process lives."""
    evaluate = sensor._evaluation_fn

    def evaluate_with_instance(context: dg.SensorEvaluationContext) -> Any:
        if context._instance is None and context.instance_ref is not None:
            context._instance = _instance(serialize_value(context.instance_ref))
        return evaluate(context)

    sensor._evaluation_fn = evaluate_with_instance
    return sensor
