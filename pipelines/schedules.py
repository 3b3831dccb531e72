"""Every night: list again, release what is ready. Every week: retry what can succeed, audit addresses."""

import dagster as dg

from assets.catalogue import key_of
from assets.failures import failing_in_one_line
from assets.resources import Store
from assets.videos import DOWNLOAD_POOL, group_of
from pipelines.project import Project
from soundvid.builder.listing import listing
from soundvid.builder.state import reset_failed
from soundvid.recipe.model import Recipe


def schedules(recipe: Recipe, project: Project) -> tuple[list[dg.ScheduleDefinition], list[dg.JobDefinition]]:
    """The nightly and the weekly schedule of a recipe, and the weekly job."""
    group = group_of(recipe.name)
    on = dg.DefaultScheduleStatus.RUNNING if project.automatic else dg.DefaultScheduleStatus.STOPPED
    keys = [dg.AssetKey([recipe.name, name]) for name in ("source_catalogue", "shards", "release")]

    @dg.schedule(
        name=f"nightly__{group}",
        cron_schedule=project.nightly,
        target=dg.AssetSelection.assets(*keys),
        default_status=on,
        description="Lists the videos again and confirms or makes a release; new videos are processed as they come.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if context.instance.get_latest_materialization_event(keys[1]) is None:
            return dg.SkipReason("no shards were made yet; materialise source_catalogue to begin")
        return dg.RunRequest()

    @dg.op(name=f"retry_and_audit__{group}", pool=DOWNLOAD_POOL if recipe.web_sources else None)
    @failing_in_one_line()
    def retry_and_audit(context: dg.OpExecutionContext, store: Store) -> None:
        work = store.context(recipe, context.log)
        if recipe.web_sources:
            from soundvid.sources.web.audit import audit
            from soundvid.sources.web.sync import retry

            tried = retry(work.store, recipe, work.progress)
            findings = audit(work.store, recipe, work.progress)
            rot = [f for f in findings if f.is_rot]
            for finding in rot:
                context.log.warning(f"rot: {finding.source_id}: {finding.message}")
            context.add_output_metadata({"tried": tried.tried, "audited": len(findings), "rot": len(rot)})
        again = reset_failed(work, listing(work).values())
        context.log.info(f"{len(again)} videos are processed again: {', '.join(again[:20])}")

    @dg.job(
        name=f"weekly__{group}",
        description="Retries what failed and can succeed; asks whether the addresses of fetched videos still answer.",
    )
    def weekly_job() -> None:
        retry_and_audit()

    @dg.schedule(name=f"weekly__{group}", cron_schedule=project.weekly, job=weekly_job, default_status=on)
    def weekly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if context.instance.get_latest_materialization_event(key_of(recipe)) is None:
            return dg.SkipReason("nothing was listed yet; materialise source_catalogue to begin")
        return dg.RunRequest()

    return [nightly, weekly], [weekly_job]
