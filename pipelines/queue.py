"""The queue of runs: what a run makes decides which limit it counts for, so that no kind of work waits for another.

Without it a training that waits for the pool `gpu` keeps one of the few places that all runs share, and new videos wait
for it, for as long as the training before it takes. dagster.yaml names this class as its run coordinator and sets the
limits of the queues: `videos`, `release` and `training`.

On Kubernetes a training is a pod of its own: SOUNDVID_TRAINING_POD, JSON in the form of the tag `dagster-k8s/config`,
says what is different about it, such as its GPU, its image and the nodes that have one.
"""

import json
import os

from dagster import DagsterRun
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import PRIORITY_TAG

QUEUE_TAG = "soundvid/queue"
POD_TAG = "dagster-k8s/config"
RELEASE_PRIORITY = "10"  # runs without a priority have 0


class RunQueue(QueuedRunCoordinator):
    """Dagster's queue; each run is marked with the queue that it counts for, and releases go first."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        self._instance.add_run_tags(context.dagster_run.run_id, queue_tags(context.dagster_run))
        return super().submit_run(context)


def queue_tags(run: DagsterRun) -> dict[str, str]:
    """The marks of a run. One that trains counts as a training, whatever else it makes: it may wait for the pool."""
    made = {key.path[-1] for key in run.asset_selection or ()}
    if made & {"checkpoint", "metric_report"}:
        pod = os.environ.get("SOUNDVID_TRAINING_POD", "")
        asked = {POD_TAG: json.dumps(json.loads(pod))} if pod and POD_TAG not in run.tags else {}
        return {QUEUE_TAG: "training", **asked}
    if made & {"shards", "release"}:
        return {QUEUE_TAG: "release", PRIORITY_TAG: run.tags.get(PRIORITY_TAG, RELEASE_PRIORITY)}
    return {QUEUE_TAG: "videos"}
