"""The Terraform module grants what the code declares, and lets nobody in but whom it must."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hcl2
import pytest

from conftest import need
from keyturn import wiring_google
from keyturn.errors import LockedOut
from keyturn.google import events
from keyturn.google.telemetry import StructuredLog
from keyturn.model import Alert, Happening, RotationId, SecretRef
from keyturn.notifiers import log
from keyturn.stores import secret_manager, secret_manager_values
from keyturn.wiring import read_plan

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "gcp"
CHECK = ROOT / "infra" / "check_terraform.py"
SCHEMA = ROOT / ".terraform-schema"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.tf")}
EXAMPLE = FOLDER / "example"


def plain(value: Any) -> Any:
    """Return what the parser has read, without its quotes and its own notes."""
    if isinstance(value, str):
        return value.strip('"').replace('\\"', '"')
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items() if not k.startswith("__")}
    return value


FILES = {name: plain(hcl2.loads(text)) for name, text in TEXTS.items()}


def resources(kind: str) -> dict[str, Any]:
    """Return every resource of a kind, by its name."""
    found = [entry for file in FILES.values() for entry in file.get("resource", [])]
    return {name: body for entry in found for name, body in entry.get(kind, {}).items()}


def local(name: str) -> Any:
    """Return a local value."""
    [found] = [
        each[name] for file in FILES.values() for each in file.get("locals", []) if name in each
    ]
    return found


# ---------------------------------------------------------------------------- rights

DECLARED = {
    "Rotate": secret_manager.PERMISSIONS,
    "RotateCompanion": secret_manager.COMPANION_PERMISSIONS,
    "FollowUp": secret_manager.FOLLOW_UP_PERMISSIONS,
    "FollowUpCompanion": [
        each for each in secret_manager.COMPANION_PERMISSIONS if not each.endswith(".destroy")
    ],
    "Admin": secret_manager.ADMIN_PERMISSIONS,
    "Generate": [
        each for each in secret_manager_values.PERMISSIONS if not each.endswith(".create")
    ],
}


def test_each_role_has_what_the_code_declares_and_no_more() -> None:
    assert {name: sorted(each) for name, each in local("roles").items()} == {
        name: sorted(each) for name, each in DECLARED.items()
    }


def test_each_function_has_its_role_on_the_secret_and_another_on_the_companion() -> None:
    found = re.findall(r"(\w+) += \{ secret = \"(\w+)\", companion = \"(\w+)\" \}", TEXTS["iam.tf"])

    assert found == [
        ("rotate", "Rotate", "RotateCompanion"),
        ("follow_up", "FollowUp", "FollowUpCompanion"),
        ("generate", "Generate", "Generate"),
    ]
    members = resources("google_secret_manager_secret_iam_member")
    granted = {name: (body["secret_id"], body["role"]) for name, body in members.items()}
    assert granted == {
        "secret": (
            "${google_secret_manager_secret.rotated[each.value.secret].secret_id}",
            f"${{{ROLE}[local.granted[each.value.function].secret].name}}",
        ),
        "companion": (
            "${google_secret_manager_secret.companion[each.value.secret].secret_id}",
            f"${{{ROLE}[local.granted[each.value.function].companion].name}}",
        ),
        "admin": ("${each.value.secret}", f'${{{ROLE}["Admin"].name}}'),
    }


ROLE = "google_project_iam_custom_role.this"


def test_nobody_may_call_a_function_but_the_account_that_pushes() -> None:
    found = resources("google_cloud_run_service_iam_member")

    assert [body["role"] for body in found.values()] == ["roles/run.invoker"]
    assert [body["member"] for body in found.values()] == ["${google_service_account.push.member}"]
    assert not re.search(r"allUsers|allAuthenticatedUsers", "".join(TEXTS.values()))


def test_no_grant_is_for_a_whole_project() -> None:
    kinds = {kind for file in FILES.values() for e in file.get("resource", []) for kind in e}

    assert not {
        kind for kind in kinds if kind.startswith("google_project_iam_") and "role" not in kind
    }


def test_there_is_no_value_of_a_secret_anywhere() -> None:
    """What stands in a resource stands in the state file."""
    assert "secret_manager_secret_version" not in "".join(TEXTS.values())
    assert "secret_data" not in "".join(TEXTS.values())


# ---------------------------------------------------------------------------- secrets


def test_secret_manager_may_publish_before_a_secret_names_the_topic() -> None:
    rotated = resources("google_secret_manager_secret")["rotated"]
    publisher = resources("google_pubsub_topic_iam_member")["secret_manager"]

    assert rotated["depends_on"] == ["${google_pubsub_topic_iam_member.secret_manager}"]
    assert publisher["member"] == "${google_project_service_identity.secret_manager.member}"
    assert publisher["role"] == "roles/pubsub.publisher"
    assert rotated["topics"] == [{"name": "${google_pubsub_topic.secrets.id}"}]


def test_what_keyturn_and_secret_manager_write_is_left_alone() -> None:
    secrets = resources("google_secret_manager_secret")

    assert secrets["companion"]["lifecycle"] == [{"ignore_changes": ["annotations"]}]
    assert (
        "${rotation[0].next_rotation_time}" in secrets["rotated"]["lifecycle"][0]["ignore_changes"]
    )


def test_a_companion_has_its_name_and_tells_nobody_anything() -> None:
    companion = resources("google_secret_manager_secret")["companion"]

    assert companion["secret_id"] == "${each.key}-pending"
    assert not companion.keys() & {"topics", "rotation", "version_destroy_ttl"}


# ---------------------------------------------------------------------------- messages


def test_each_function_hears_what_it_is_for() -> None:
    heard = re.findall(r'function = "(\w+)"\n +filter +=\s"(.*)"', TEXTS["topics.tf"])

    assert [(name, filter_.replace("\\", "")) for name, filter_ in heard] == [
        ("rotate", f'attributes.eventType = "{events.ROTATE}"'),
        ("follow_up", f'attributes.eventType = "{events.VERSION_ADD}"'),
        ("follow_up", 'hasPrefix(attributes.eventType, "KEYTURN_")'),
    ]
    own = {events.SWEEP, events.LOOK, events.LOOK_AGAIN}
    assert all(each.startswith("KEYTURN_") for each in own)


def test_a_push_says_who_it_is_and_which_topic_and_never_ends() -> None:
    push = resources("google_pubsub_subscription")["push"]
    uri = "${google_cloudfunctions2_function.this[each.value.function].service_config[0].uri}"

    assert push["push_config"] == [
        {
            "push_endpoint": f"{uri}/${{each.value.topic.id}}",
            "oidc_token": [
                {"service_account_email": "${google_service_account.push.email}", "audience": uri}
            ],
        }
    ]
    assert push["expiration_policy"] == [{"ttl": ""}]
    assert push["retry_policy"] == [{"minimum_backoff": "30s", "maximum_backoff": "600s"}]
    assert push["ack_deadline_seconds"] == 600
    dead = push["dead_letter_policy"][0]["dead_letter_topic"]
    assert dead == "${google_pubsub_topic.dead.id}"
    assert resources("google_pubsub_subscription")["dead"]["topic"] == dead


def test_second_looks_do_not_become_dead_letters() -> None:
    """They are answered 425 until they are due, every 30 s to 600 s."""
    attempts = re.findall(r"function = \"(\w+)\"\n.*\n +attempts = (\d+)", TEXTS["topics.tf"])

    assert attempts == [("rotate", "20"), ("follow_up", "20"), ("follow_up", "100")]


def test_pub_subs_own_account_is_made_before_it_is_granted_anything() -> None:
    """In a new project it is not there yet, and a grant to an account that is not there fails."""
    identity = resources("google_project_service_identity")["pubsub"]

    assert identity["service"] == "pubsub.googleapis.com"
    assert identity["provider"] == "google-beta"
    assert local("pubsub_agent") == "${google_project_service_identity.pubsub.member}"


def test_the_clock_asks_for_a_sweep() -> None:
    [target] = resources("google_cloud_scheduler_job")["sweep"]["pubsub_target"]

    assert target["attributes"] == {"eventType": events.SWEEP}
    assert target["topic_name"] == "${google_pubsub_topic.follow_up.id}"


# ---------------------------------------------------------------------------- functions


def test_the_functions_are_given_what_they_ask_for() -> None:
    given = set(re.findall(r"^ +(KEYTURN_\w+) +=", TEXTS["functions.tf"], re.MULTILINE))

    assert given <= wiring_google.VARIABLES
    assert given >= {
        *("KEYTURN_PROJECT", "KEYTURN_SECRETS", "KEYTURN_TOPICS", "KEYTURN_CALLERS"),
        *("KEYTURN_FOLLOW_UP_TOPIC", "KEYTURN_ALERTS", "KEYTURN_TIMEOUT_S"),
    }
    assert "KEYTURN_PROJECT         = data.google_project.this.number" in TEXTS["functions.tf"]


def test_a_project_may_say_who_builds() -> None:
    """Else it is the default account of Compute Engine, which new organisations give no rights."""
    [build] = resources("google_cloudfunctions2_function")["this"]["build_config"]

    assert build["service_account"] == "${var.build_account}"


def test_the_entry_points_are_those_of_main() -> None:
    main = (ROOT / "functions" / "main.py").read_text(encoding="utf-8")
    named = re.findall(
        r"\"(\w+)\"", TEXTS["functions.tf"].partition("entry_points")[2].split("\n")[0]
    )

    assert set(named) == {"rotate", "follow_up", "generate"}
    assert all(re.search(rf"\b{name}\b", main) for name in named)


def test_the_package_leaves_out_what_a_source_deploy_does() -> None:
    """By .gcloudignore; the archive provider has globs of its own."""
    excludes = FILES["functions.tf"]["data"][0]["archive_file"]["source"]["excludes"]
    ignored = (ROOT / "functions" / ".gcloudignore").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in ignored if line and not line.startswith("#")}

    assert {_as_ignored(each) for each in excludes} == wanted


def _as_ignored(glob: str) -> str:
    if glob == "**/.*":
        return ".*"
    return glob.removeprefix("**/").removesuffix("**")


# ---------------------------------------------------------------------------- alerts


def test_the_alert_policies_match_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    StructuredLog({}, {}).failed({"secret": "s"}, 1, LockedOut("locked out", remedy=""))
    for happening in (Happening.OVERDUE, Happening.FOREIGN):
        alert = Alert(happening, SecretRef("s"), RotationId("r"), "", "it is", "do", at, 1)
        log.notifier("log", lambda *_: None).send(alert)
    written = map(json.loads, capsys.readouterr().out.splitlines())
    lines = dict(zip(("failed", "overdue", "foreign"), written, strict=True))

    for name, line in lines.items():
        filter_ = plain(local("told")[name]["filter"])
        asked = dict(re.findall(r'jsonPayload\.(\w+)="(\w[\w ]*)"', filter_))
        assert asked, name
        assert asked.items() <= line.items()
        assert "severity>=ERROR" not in filter_ or line["severity"] == "ERROR"
        assert "secret" in line


def test_dead_letters_are_not_messages_that_wait() -> None:
    """They lie there until somebody takes them: an alert of their own says so, once."""
    [waiting] = resources("google_monitoring_alert_policy")["waiting"]["conditions"]

    watched = re.findall(r"subscription_id=(.*)$", waiting["condition_threshold"][0]["filter"])
    assert watched == ["one_of(${local.pushed})"]
    assert local("pushed") == (
        '${join(",", [for each in google_pubsub_subscription.push : jsonencode(each.name)])}'
    )


# ---------------------------------------------------------------------------- the example


def test_the_example_has_a_plan_for_its_secrets() -> None:
    text = (EXAMPLE / "main.tf").read_text(encoding="utf-8")
    plan = read_plan(EXAMPLE / "keyturn.yaml")

    for name, secret in plan.secrets.items():
        assert f"{name} = {{" in text
        assert f'"{secret.admin}"' in text


# ---------------------------------------------------------------------------- the tools


def test_the_files_have_terraforms_own_form() -> None:
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("needs terraform, which no package registry has")

    done = subprocess.run(
        [terraform, "fmt", "-check", "-recursive", FOLDER],
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout.decode()


def evaluated(tmp_path: Path, expression: str, **variables: object) -> Any:
    """Return what Terraform itself makes of an expression; without a provider, so of few.

    Raises:
        ValueError: It refuses; the text says why.
    """
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("needs terraform, which no package registry has")
    granted = re.search(r"(?ms)^  # A function's role.*?^}", TEXTS["iam.tf"])
    assert granted
    (tmp_path / "variables.tf").write_text(TEXTS["variables.tf"])
    (tmp_path / "locals.tf").write_text(f"locals {{\n{granted[0]}\n")
    values = {"project": "p", "region": "r", "source_dir": "s", "secrets": SOME, **variables}
    (tmp_path / "some.tfvars.json").write_text(json.dumps(values))

    done = subprocess.run(
        [terraform, f"-chdir={tmp_path}", "console", "-var-file=some.tfvars.json"],
        input=f"jsonencode({expression})",
        env={"PATH": os.environ["PATH"], "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    if not done.stdout.startswith('"'):  # It may exit with 0 all the same.
        told = re.sub(r"\x1b\[[0-9;]*m|[╷│╵]", " ", done.stdout + done.stderr)
        raise ValueError(" ".join(told.split()))
    return json.loads(json.loads(done.stdout))


SOME = {name: {"first_rotation": "2030-01-01T03:00:00Z"} for name in ("orders", "users")}


@pytest.mark.parametrize("has_generate", [False, True])
def test_each_function_gets_each_secret(tmp_path: Path, *, has_generate: bool) -> None:
    made = evaluated(
        tmp_path,
        "[local.grants, local.admin_grants]",
        has_generate=has_generate,
        admin_secrets=["a"],
    )

    grants, admins = ({(e["function"], e["secret"]) for e in each.values()} for each in made)
    functions = {"rotate", "follow_up"} | ({"generate"} if has_generate else set())
    assert grants == {(function, secret) for function in functions for secret in SOME}
    assert admins == {("rotate", "a"), ("follow_up", "a")}


REFUSED = [
    ({"name": "Keyturn"}, "3 to 16 small letters"),
    ({"name": "keyturn-of-the-shop"}, "3 to 16 small letters"),
    ({"secrets": {"a b": SOME["users"]}}, "A secret's id has 247"),
    ({"secrets": {"orders-pending": SOME["users"]}}, "is a companion's name"),
    ({"secrets": {"orders": {**SOME["users"], "rotation_period": "600s"}}}, "3600s at least"),
    ({"secrets": {"orders": {**SOME["users"], "rotation_period": "30d"}}}, "3600s at least"),
    ({"timeout_s": 600}, "Less than the 600 s"),
    ({"timeout_s": 1.5}, "Less than the 600 s"),
]


@pytest.mark.parametrize("variables, said", REFUSED, ids=[str(each[0]) for each in REFUSED])
def test_what_cannot_work_is_refused_before_anything_is_made(
    tmp_path: Path, variables: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        evaluated(tmp_path, "1", **variables)


def check() -> Any:
    """Return the check, which is a script."""
    spec = importlib.util.spec_from_file_location("check_terraform", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted(SCHEMA.glob("*.whl"))
    need(present=bool(found), what="the provider's schema", install="make .terraform-schema/ready")
    return found[0]


@pytest.fixture(scope="module")
def checked(wheel: Path) -> Callable[[Path], list[str]]:
    """Return what the check says of a folder; the schema is read once."""
    module = check()
    provider = module.Provider(wheel)
    return lambda folder: [str(each) for each in module.problems(folder, provider)]


def test_the_command_prints_what_it_finds_and_fails(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('resource "google_nothing" "x" {}\n')

    done = subprocess.run(
        [sys.executable, CHECK, wheel, tmp_path], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "google_nothing.x: there is no such resource\n")


@pytest.mark.parametrize("folder", [FOLDER, EXAMPLE], ids=["module", "example"])
def test_the_provider_knows_all_that_is_there(
    checked: Callable[[Path], list[str]], folder: Path
) -> None:
    assert checked(folder) == []


MISTAKES = [
    ("topics.tf", "ack_deadline_seconds", "ack_deadline", "push: there is no `ack_deadline`"),
    ("topics.tf", '    ttl = ""', '    tll = ""', "expiration_policy: there is no `tll`"),
    ("topics.tf", "audience  ", "audiance  ", "oidc_token: there is no `audiance`"),
    (
        "functions.tf",
        '    runtime         = "python313"\n    entry_point',
        "    entry",
        "no `entry`",
    ),
    ("secrets.tf", "  secret_id           = each.key\n", "", "rotated: `secret_id` is missing"),
    ("secrets.tf", "each.value.destroy_after", "var.destroy_after", "var.destroy_after: is not"),
    ("iam.tf", "local.pubsub_agent", "local.agent", "local.agent: is not declared"),
    ("iam.tf", "google_pubsub_topic.dead.name", "google_pubsub_topic.deaf.name", "deaf: is not"),
    ("iam.tf", "google_pubsub_topic.dead.name", "google_pubsub_topic.dead.nam", "has no `nam`"),
    (
        "alerts.tf",
        'google_monitoring_alert_policy" "dead',
        'google_alert" "dead',
        "no such resource",
    ),
]


@pytest.mark.parametrize("file, old, new, said", MISTAKES, ids=[each[3] for each in MISTAKES])
def test_the_check_sees_a_mistake(  # noqa: PLR0913, PLR0917  # what is changed, and what is said
    checked: Callable[[Path], list[str]],
    tmp_path: Path,
    file: str,
    old: str,
    new: str,
    said: str,
) -> None:
    """A check that cannot fail proves nothing."""
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == file else text)
    assert old in TEXTS[file]

    assert any(said in each for each in checked(tmp_path))
