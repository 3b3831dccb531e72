"""Alerts as people get them: a webhook and a mail over loopback, once for each thing, and no secret in any log."""

import base64
import json
import socketserver
import threading
import time
from email import message_from_bytes
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from pipelines.alerts import Alert, Alerts, Cursor, stale, tell
from pipelines.definitions import build_defs
from pipelines.project import Project
from soundvid.store.dataset import Dataset
from tests.builder.test_build import copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import Bench
from tests.helpers.loopback import LoopbackServer

PASSWORD = "correct-horse-battery-7"
PATH = "/services/T00/B00/secretpart"


@pytest.fixture
def webhook(monkeypatch):
    """What was posted; `status` is what it answers."""

    class Webhook(LoopbackServer):
        def __init__(self):
            self.posted, self.status = [], 200

        def answer(self, request, body):
            if self.status == 200:
                self.posted.append((request.path, json.loads(body)))
            request.send_response(self.status, f"no: {request.path}")
            request.send_header("Content-Length", "0")
            request.end_headers()

    with Webhook() as server:
        monkeypatch.setenv("HOOK", f"{server.url}{PATH}")
        yield server


@pytest.fixture
def mails(monkeypatch):
    """An SMTP server with a login; the mails that it took."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self):
            self.say("220 here")
            known = False
            while line := self.rfile.readline():
                word, _, rest = line.decode().strip().partition(" ")
                word = word.upper()
                if word == "EHLO":
                    self.wfile.write(b"250-here\r\n250 AUTH PLAIN\r\n")
                elif word == "AUTH":
                    known = base64.b64decode(rest.split()[-1]).split(b"\0")[1:] == [b"robot", PASSWORD.encode()]
                    self.say("235 yes" if known else f"535 no: {rest}")
                elif word == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (line := self.rfile.readline()) != b".\r\n":
                        lines.append(line)
                    server.mails.append(message_from_bytes(b"".join(lines)))
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 well" if known else "530 log in first")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.mails = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    yield server
    server.shutdown()
    server.server_close()


def settings(mails) -> dict:
    return {
        "webhook": "$HOOK",
        "ui": "https://dagster.example.org/",
        "mail": {
            "host": "127.0.0.1", "port": mails.server_address[1], "security": "none", "sender": "soundvid@example.org",
            "to": ["anna@example.org", "team@example.org"], "user": "robot", "password": "$SMTP_PASSWORD",
        },
    }  # fmt: skip


def tick(bench: Bench, cursor: str | None) -> tuple[str, str]:
    """One look of the sensor: its cursor, and what it says."""
    context = dg.build_sensor_context(instance=bench.instance, cursor=cursor, definitions=bench.defs)
    evaluated = bench.defs.get_repository_def().get_sensor_def("alerts")(context)
    return context.cursor, evaluated.skip_message


def test_what_goes_wrong_is_told_once_and_again_when_it_was_well_in_between(
    toys, tmp_path: Path, webhook, mails, caplog, capfd
):
    with dg.instance_for_test() as instance:
        videos = copy(toys, tmp_path / "v", "toy0.mp4")
        bench = Bench(toy_recipe(videos), tmp_path / "s", instance, alerts=settings(mails))
        assert all(r.success for r in bench.everything())
        cursor, evaluated = tick(bench, None)
        assert evaluated == "nothing is wrong" and webhook.posted == [] and mails.mails == []

        shard = next(iter(Dataset(tmp_path / "s", "toy").shards.glob("*.tar")))
        whole = shard.read_bytes()
        shard.chmod(0o644)

        def damage() -> None:
            shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
            assert not bench.make("shards", "release").success

        damage()
        webhook.status = 503
        cursor, evaluated = tick(bench, cursor)  # the webhook's server is down: the mail goes out all the same
        assert "answered 503; it is tried again" in evaluated and len(mails.mails) == 1 and webhook.posted == []
        webhook.status = 200
        cursor, evaluated = tick(bench, cursor)
        ((path, body),) = webhook.posted
        assert path == PATH and {a["key"] for a in body["alerts"]} == {
            "check:toy/shards:hashes",
            "check:toy/shards:counts_agree",
        }
        assert shard.name in body["text"]  # and no word of the run that the check has stopped
        assert "https://dagster.example.org/assets/toy/shards?view=checks" in body["text"]
        (mail,) = mails.mails
        assert mail["To"] == "anna@example.org, team@example.org" and "toy/shards failed" in mail["Subject"]
        assert shard.name in mail.get_payload(decode=True).decode()
        cursor, evaluated = tick(bench, cursor)
        assert evaluated == "wrong now: 2" and len(webhook.posted) == len(mails.mails) == 1  # they are known

        shard.write_bytes(whole)
        assert bench.make("shards", "release").success
        cursor, evaluated = tick(bench, cursor)
        assert evaluated == "nothing is wrong" and len(webhook.posted) == 1
        damage()
        cursor, _ = tick(bench, cursor)
        assert len(webhook.posted) == len(mails.mails) == 2  # it was well in between

        candidate = Dataset(tmp_path / "s", "toy").folder / "candidate" / "candidate.json"
        candidate.unlink()
        failed = bench.make("release")
        assert not failed.success
        cursor, _ = tick(bench, cursor)
        (alert,) = webhook.posted[-1][1]["alerts"]
        assert alert["key"] == f"run:{failed.run_id}" and alert["message"].endswith("make the shards")
        assert alert["subject"] == "the run of toy/release failed" and alert["path"] == f"/runs/{failed.run_id}"

        repository = bench.defs.get_repository_def()
        assert list(stale(instance, repository, time.time() + 35 * 3600)) == []
        late = {a.key: a for a in stale(instance, repository, time.time() + 37 * 3600)}
        assert set(late) == {"stale:toy/source_catalogue", "stale:toy/release"}
        assert "37 hours, 36 are usual" in late["stale:toy/release"].message
    logged = caplog.text + "".join(capfd.readouterr())
    assert "secretpart" not in logged and PASSWORD not in logged
    assert base64.b64encode(f"\0robot\0{PASSWORD}".encode()).decode() not in logged


def test_what_a_channel_says_when_it_refuses_has_no_secret(webhook, mails, monkeypatch):
    wrong = [Alert("run:1", "run", "a run failed", "https://anna:hidden1@example.org/v.mp4?token=hidden2 is gone", "/")]
    alerts = Alerts.model_validate(settings(mails))
    cursor, sent, failed = tell(alerts, Cursor(0), wrong)
    assert len(sent) == 2 and failed == []
    texts = webhook.posted[0][1]["text"] + mails.mails[0].as_string() + str(webhook.posted)
    assert "hidden1" not in texts and "hidden2" not in texts and "example.org/v.mp4" in texts
    assert tell(alerts, cursor, wrong)[1:] == ([], [])
    monkeypatch.setenv("SMTP_PASSWORD", "another-password-1")
    webhook.status = 404
    _, sent, failed = tell(alerts, Cursor(0), wrong)
    assert sent == [] and "webhook: the webhook's server (127.0.0.1) answered 404" in failed[0]
    assert "refused the mail (SMTPAuthenticationError, 535)" in failed[1]
    monkeypatch.setenv("HOOK", f"https://127.0.0.1:1{PATH}")
    monkeypatch.delenv("SMTP_PASSWORD")
    _, _, failed = tell(alerts, Cursor(0), wrong)
    assert "127.0.0.1 does not answer" in failed[0] and "the environment has no SMTP_PASSWORD" in failed[1]
    assert "secretpart" not in str(failed) and "another" not in str(failed)


def test_alerts_are_off_by_default_and_a_secret_in_the_file_is_refused(tmp_path: Path):
    names = {s.name for s in build_defs([toy_recipe(tmp_path)], Project()).sensors or ()}
    assert "alerts" not in names
    with pytest.raises(ValidationError, match="webhook"):
        Project.model_validate({"alerts": {"webhook": "https://hooks.example.org/secretpart"}})


def test_owners_tags_and_kinds_of_a_recipe_are_its_assets_and_no_part_of_its_versions(tmp_path: Path):
    labels = {"owners": ["anna@example.org", "team:vision"], "tags": {"project": "claps"}, "kinds": ["mri"]}
    plain = toy_recipe(tmp_path)
    recipe = plain.model_validate({**plain.model_dump(mode="json"), **labels})
    graph = build_defs([recipe], Project()).resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert set(node.owners) == set(labels["owners"]) and node.tags["project"] == "claps"
        assert "mri" in node.kinds and len(node.kinds) == 2
    assert recipe.model_dump(mode="json") == plain.model_dump(mode="json")
    for wrong in ({"owners": ["anna"]}, {"tags": {"a b": "c"}}, {"kinds": ["a", "b", "c"]}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            plain.model_validate({**plain.model_dump(mode="json"), **wrong})
