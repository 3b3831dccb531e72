"""Alerts: a webhook and a mail when a run fails, a check of a dataset fails, or a release or a listing is stale.

Off unless soundvid.yaml has a section `alerts`. What is wrong is reported once for each channel, until it was well in
between; what could not be delivered is tried again in the next tick. A sensor does it, so that it depends on nothing
but the daemon; for a daemon that does not run, something outside has to look.

Secrets are named by the environment's variables (`$NAME`) and never logged: neither a webhook's address, which is one,
nor a password.
"""

import hashlib
import json
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy
from dagster._core.errors import DagsterAssetCheckFailedError
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG
from pydantic import Field

from soundvid.util.config import Strict
from soundvid.util.redact import redact

TIMEOUT = 10.0  # seconds for a server to answer
MOST_LINES = 20  # of one message
WEEK = 7 * 86400.0  # seconds: older failures are not reported
Variable = Annotated[str, Field(pattern=r"^\$[A-Za-z_][A-Za-z0-9_]*$")]


class Mail(Strict):
    """How a mail is sent."""

    host: str = Field(description="the SMTP server")
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    to: list[str] = Field(min_length=1)
    user: str = Field("", description="empty: the server asks for no login")
    password: Variable | None = Field(None, description="$NAME of an environment variable")


class Alerts(Strict):
    """The section `alerts` of soundvid.yaml."""

    webhook: Variable | None = Field(None, description="$NAME of an environment variable that holds the address")
    mail: Mail | None = None
    ui: str = Field("", description="the UI's address as readers of an alert see it, for links")
    failed_runs: bool = True
    failed_checks: bool = True
    warnings: bool = Field(False, description="also checks that only warn, such as held_out")
    stale: bool = Field(True, description="also what no night has confirmed for stale_after_hours")


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong. Two with the same key are the same thing."""

    key: str
    kind: Literal["run", "check", "stale"]
    subject: str
    message: str
    path: str  # in the UI


@dataclass(frozen=True)
class Cursor:
    """What was reported."""

    since: float  # failures before are not reported, in seconds since 1970
    reported: dict[str, list[str]] = field(default_factory=dict)  # keys of alerts by channel

    @classmethod
    def read(cls, text: str | None, now: float) -> "Cursor":
        saved = json.loads(text or "{}")
        return cls(**saved) if isinstance(saved.get("since"), (int, float)) else cls(now)


class NotDelivered(Exception):
    """A channel did not take an alert; one line without secrets."""


# -- what is wrong


def failed_runs(instance: dg.DagsterInstance, since: float, *, by_checks: bool = True) -> Iterator[Alert]:
    """Runs that failed, and are not started again by themselves; also those that a blocking check stopped, or not."""
    wanted = RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
    for record in instance.get_run_records(wanted, limit=500):
        run = record.dagster_run
        if (record.end_time or 0.0) < since or run.tags.get(WILL_RETRY_TAG) == "true":
            continue
        reason, stopped = _why(instance, run.run_id)
        if stopped and not by_checks:
            continue
        assets = sorted(key.to_user_string() for key in run.asset_selection or ())
        what = ", ".join(assets[:4]) or run.job_name
        partition = run.tags.get("dagster/partition")
        subject = f"the run of {what}{f' for {partition}' if partition else ''} failed"
        yield Alert(f"run:{run.run_id}", "run", subject, reason, f"/runs/{run.run_id}")


def _why(instance: dg.DagsterInstance, run: str) -> tuple[str, bool]:
    """The first error of a run, one line; and whether it was a blocking check."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run, of_type=kind, limit=1).records:
            event = record.event_log_entry.dagster_event
            data: Any = event.event_specific_data if event is not None else None
            user = getattr(data, "user_failure_data", None)
            error = getattr(data, "error", None)
            text = (
                (user and user.description) or (error and (error.cause or error).message) or (event and event.message)
            )
            if text:
                stopped = error is not None and error.cls_name == DagsterAssetCheckFailedError.__name__
                return " ".join(str(text).split()), stopped
    return "it ended without an error of its own", False


def failed_checks(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, warnings: bool) -> Iterator[Alert]:
    """Checks of whole datasets whose newest execution failed; those of single videos are not reported."""
    graph = repository.asset_graph
    keys = [key for key in graph.asset_check_keys if graph.get(key.asset_key).partitions_def is None]
    for key, record in instance.event_log_storage.get_latest_asset_check_execution_by_key(keys).items():
        evaluation = record.evaluation
        if record.status is not AssetCheckExecutionRecordStatus.FAILED or evaluation is None:
            continue
        if evaluation.severity is dg.AssetCheckSeverity.WARN and not warnings:
            continue
        asset = key.asset_key.to_user_string()
        yield Alert(
            f"check:{asset}:{key.name}",
            "check",
            f"the check {key.name} of {asset} failed",
            " ".join((evaluation.description or "").split()),
            f"/assets/{asset}?view=checks",
        )


def stale(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, now: float) -> Iterator[Alert]:
    """Assets that were made once, and not confirmed within their freshness policy's first window."""
    graph = repository.asset_graph
    for key in sorted(graph.materializable_asset_keys):
        policy = graph.get(key).freshness_policy
        event = instance.get_latest_materialization_event(key) if policy is not None else None
        if not isinstance(policy, TimeWindowFreshnessPolicy) or event is None:
            continue
        window = (policy.warn_window or policy.fail_window).to_timedelta().total_seconds()
        if (age := now - event.timestamp) > window:
            asset = key.to_user_string()
            message = (
                f"nothing has confirmed it for {age / 3600:.0f} hours, {window / 3600:.0f} are usual: is the daemon "
            )
            message += "running, are its schedules on, and do its runs end well?"
            yield Alert(f"stale:{asset}", "stale", f"{asset} is stale", message, f"/assets/{asset}")


def everything_wrong(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, alerts: Alerts, since: float, now: float
) -> list[Alert]:
    """All that is wrong now. A run that a check has stopped is not reported for itself where checks are reported."""
    since = max(since, now - WEEK)
    checks = failed_checks(instance, repository, alerts.warnings) if alerts.failed_checks else ()
    runs = failed_runs(instance, since, by_checks=not alerts.failed_checks) if alerts.failed_runs else ()
    return [*checks, *runs, *(stale(instance, repository, now) if alerts.stale else ())]


# -- telling it


def secret(variable: str) -> str:
    """What a `$NAME` stands for. Raises NotDelivered where the environment does not have it."""
    value = os.environ.get(variable.removeprefix("$"), "")
    if not value:
        raise NotDelivered(f"the environment has no {variable.removeprefix('$')}: set it where Dagster is started")
    return value


def text_of(alerts: list[Alert], ui: str) -> str:
    lines = []
    for alert in alerts[:MOST_LINES]:
        link = f"\n  {ui.rstrip('/')}{alert.path}" if ui else ""
        lines.append(f"- {redact(alert.subject)}: {redact(alert.message)[:500]}{link}")
    if len(alerts) > MOST_LINES:
        lines.append(f"- and {len(alerts) - MOST_LINES} more")
    return "\n".join(lines)


def headline(alerts: list[Alert]) -> str:
    first = redact(alerts[0].subject)
    return f"soundvid: {first}" + (f", and {len(alerts) - 1} more" if len(alerts) > 1 else "")


def post(address: str, alerts: list[Alert], ui: str) -> None:
    """Send JSON with `text`, as Slack and Mattermost read it, and `alerts`. Raises NotDelivered."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotDelivered("the webhook's address does not begin with https:// or http://")
    rows = [{**asdict(a), "message": redact(a.message), "subject": redact(a.subject)} for a in alerts[:MOST_LINES]]
    data = json.dumps({"text": f"{headline(alerts)}\n{text_of(alerts, ui)}", "alerts": rows}).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return
    except urllib.error.HTTPError as error:  # its text may repeat what was sent
        raise NotDelivered(f"the webhook's server ({parts.hostname}) answered {error.code}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NotDelivered(f"{parts.hostname} does not answer ({type(reason).__name__})") from None


def send(mail: Mail, alerts: list[Alert], ui: str) -> None:
    """Send one mail. Raises NotDelivered."""
    message = EmailMessage()
    message["Subject"] = " ".join(headline(alerts).split())
    message["From"], message["To"] = mail.sender, ", ".join(mail.to)
    same = hashlib.sha256(" ".join(a.key for a in alerts).encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{same}@soundvid>"  # sent twice after a crash, it is shown once
    message.set_content(text_of(alerts, ui) + "\n")
    password = secret(mail.password) if mail.password is not None else ""
    context = ssl.create_default_context()
    try:
        if mail.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(mail.host, mail.port, timeout=TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT)
        with server:
            if mail.security == "starttls":
                server.starttls(context=context)
            if mail.user:
                server.login(mail.user, password)
            server.send_message(message)
    except smtplib.SMTPResponseException as error:  # its text may repeat the login
        raise NotDelivered(
            f"{mail.host}:{mail.port} refused the mail ({type(error).__name__}, {error.smtp_code})"
        ) from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotDelivered(f"{mail.host}:{mail.port} did not take the mail ({type(error).__name__})") from None


def tell(alerts: Alerts, cursor: Cursor, wrong: list[Alert]) -> tuple[Cursor, list[str], list[str]]:
    """Tell each channel what is new for it; the new cursor, what was sent, and what could not be."""
    channels: dict[str, Any] = {}
    if alerts.webhook is not None:
        variable = alerts.webhook
        channels["webhook"] = lambda new: post(secret(variable), new, alerts.ui)
    if alerts.mail is not None:
        mail = alerts.mail
        channels["mail"] = lambda new: send(mail, new, alerts.ui)
    now_wrong, reported, sent, failed = {a.key for a in wrong}, {}, [], []
    for name, deliver in channels.items():
        before = set(cursor.reported.get(name, ()))
        new = [a for a in wrong if a.key not in before]
        try:
            if new:
                deliver(new)
                sent.append(f"{name}: {headline(new)}")
            reported[name] = sorted(now_wrong)
        except NotDelivered as error:
            failed.append(f"{name}: {error}; it is tried again")
            reported[name] = sorted(before & now_wrong)
    return Cursor(cursor.since, reported), sent, failed


def alert_sensor(alerts: Alerts, seconds: int) -> dg.SensorDefinition:
    """The sensor; `seconds`: between two looks."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends an alert when a run or a check of a dataset fails, or a release or a listing is stale.",
    )
    def tell_what_is_wrong(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now = time.time()
        cursor = Cursor.read(context.cursor, now)
        repository = context.repository_def
        assert repository is not None
        wrong = everything_wrong(context.instance, repository, alerts, cursor.since, now)
        cursor, sent, failed = tell(alerts, cursor, wrong)
        for line in sent:
            context.log.info(f"sent to {line}")
        for line in failed:
            context.log.warning(line)
        context.update_cursor(json.dumps(asdict(cursor)))
        known = f"wrong now: {len(wrong)}" if wrong else "nothing is wrong"
        return dg.SkipReason("; ".join([known, *(f"sent to {line}" for line in sent), *failed]))

    return tell_what_is_wrong
