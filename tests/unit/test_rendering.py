"""Every form is proved by those who read it: a shell, python-dotenv, libpq, redis-py, urllib."""

from __future__ import annotations

import io
import json
import random
import string
import subprocess
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import dotenv
import psycopg.conninfo
import pytest
from redis.connection import parse_url

from keyturn.errors import Misconfigured
from keyturn.model import Sensitive
from keyturn.rendering import Form, Rendering, render

CANARY = "Canary7-"
WHERE = "prod/orders/db version v1"
USUAL = {
    "engine": "postgres",
    "host": "db.example.com",
    "port": 5432,
    "username": "orders",
    "password": f"{CANARY}x",
    "dbname": "app",
}
HOSTILE = f"{CANARY} !\"#$%&'()*+,-./:;<=>?@[\\]^_`{{|}}~é世\N{KEY}"


def rendered(form: Form, members: dict[str, Any], **how: str) -> str:
    text = Sensitive(json.dumps(members))
    return render(text, Rendering(form, **how), WHERE).reveal()


def refusal(form: Form, members: dict[str, Any], **how: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        rendered(form, members, **how)
    assert caught.value.remedy
    return str(caught.value)


# ---------------------------------------------------------------------------- json, value


def test_json_is_the_document_to_the_byte() -> None:
    """Whatever it is: what is no object is delivered as well."""
    for text in ('{ "a":1.00 ,\n"a":2}', f"{CANARY}not json", "\ud800"):
        assert render(Sensitive(text), Rendering(), WHERE) == Sensitive(text)


@pytest.mark.parametrize(
    "value, text",
    [
        (HOSTILE, HOSTILE),
        (f"{CANARY}\n\x00\u2028", f"{CANARY}\n\x00\u2028"),
        (5432, "5432"),
        (12345678901234567890123, "12345678901234567890123"),
        (True, "true"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
    ],
    ids=["hostile", "controls", "number", "long number", "boolean", "object"],
)
def test_a_value_is_the_member_itself(value: object, text: str) -> None:
    is_same = rendered(Form.VALUE, {"other": 1, "wanted": value}, member="wanted") == text
    assert is_same


@pytest.mark.parametrize(
    "members, said",
    [
        ({}, "the member 'wanted' is not there"),
        ({"wanted": None}, "the member 'wanted' is not there"),
        ({"wanted": ""}, "the member 'wanted' is empty"),
        ({"wanted": f"{CANARY}\ud800"}, "the member 'wanted' has half a surrogate pair"),
    ],
    ids=["absent", "null", "empty", "half"],
)
def test_a_member_that_is_no_value_is_refused(members: dict[str, Any], said: str) -> None:
    assert refusal(Form.VALUE, members, member="wanted") == f"{WHERE} as value: {said}"


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.JSON])
def test_what_is_no_object_has_no_members(form: Form) -> None:
    with pytest.raises(Misconfigured, match=r"not a JSON object") as caught:
        render(Sensitive(f"{CANARY}text"), Rendering(form, "password"), WHERE)

    assert f"{form} needs members" in caught.value.remedy


# ---------------------------------------------------------------------------- dotenv


def by_shell(text: str, names: list[str]) -> dict[str, str]:
    """Have sh read the file, and say what the variables are."""
    program = "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    ran = subprocess.run(
        ["/bin/sh", "-eu"],
        input=f"{text}\n{program}".encode(),
        capture_output=True,
        check=False,
        env={},
    )
    assert ran.returncode == 0
    return dict(zip(names, ran.stdout.decode().split("\0"), strict=False))


def by_python(text: str) -> dict[str, str | None]:
    return dict(dotenv.dotenv_values(stream=io.StringIO(text)))


def test_an_environment_is_what_a_shell_and_python_read() -> None:
    """Names as they are, numbers as they are written, null not at all."""
    members = {**USUAL, "note": f"{CANARY}it's # here", "empty": "", "null": None, "list": [1, "a"]}

    text = rendered(Form.DOTENV, members)

    expected = {
        **{name: str(value) for name, value in USUAL.items()},
        "note": f"{CANARY}it's # here",
        "empty": "",
        "list": '[1, "a"]',
    }
    is_same = by_python(text) == by_shell(text, list(expected)) == expected
    assert is_same


def test_names_may_have_a_prefix() -> None:
    text = rendered(Form.DOTENV, {"host": "db", "2nd": "x"}, prefix="DB_")

    assert text == "DB_host=db\nDB_2nd=x\n"


@pytest.mark.parametrize("name", ["a-b", "", "2nd", "a b", "a=b", "é", "a\nb"])
def test_what_is_no_name_of_a_variable_is_refused(name: str) -> None:
    assert f"the member {name!a} is no name of a variable" in refusal(Form.DOTENV, {name: "x"})


def is_taken(name: str, value: str) -> bool:
    with suppress(Misconfigured):
        return bool(rendered(Form.DOTENV, {name: value}))
    return False


def test_random_values_are_read_alike_or_refused() -> None:
    """Drawn from what is special to anybody; whatever is not refused comes back from both."""
    chance = random.Random(7)  # noqa: S311
    special = "'\"\\$`!#=~{}()&|;<>*?[] \n\tab:,%@^+-"
    values = {
        f"v{number}": CANARY + "".join(chance.choices(special, k=chance.randrange(1, 8)))
        for number in range(600)
    }
    values |= {f"c{ord(each)}": f"{CANARY}{each}x" for each in string.printable}
    kept = {name: value for name, value in values.items() if is_taken(name, value)}
    refused = values.keys() - kept.keys()

    text = rendered(Form.DOTENV, kept)

    is_same = by_python(text) == by_shell(text, list(kept)) == kept
    assert is_same
    assert {f"c{ord(each)}" for each in "\t\r\x0b\x0c"} == {n for n in refused if n[0] == "c"}
    assert len(kept) > 200


@pytest.mark.parametrize(
    "value", ["a\\\\b", "a\\", "${HOME}", "'\"", "'$x", "'`", "\x00", "\u2028"]
)
def test_what_readers_take_differently_is_refused(value: str) -> None:
    said = refusal(Form.DOTENV, {"password": f"{CANARY}{value}"})

    assert "the member 'password' has" in said


# ---------------------------------------------------------------------------- url


def test_a_url_is_what_libpq_reads() -> None:
    for password in (HOSTILE, "x"):
        members = {**USUAL, "username": HOSTILE, "password": password, "dbname": HOSTILE}

        read = psycopg.conninfo.conninfo_to_dict(rendered(Form.URL, members))

        is_same = read == {
            "user": HOSTILE,
            "password": password,
            "host": "db.example.com",
            "port": "5432",
            "dbname": HOSTILE,
        }
        assert is_same


def test_a_url_is_what_redis_reads() -> None:
    members = {"engine": "redis", "host": "cache", "password": HOSTILE, "username": "app:1"}

    url = rendered(Form.URL, members)
    read_by_redis: Any = parse_url
    read = read_by_redis(url)

    is_same = (read["username"], read["password"]) == ("app:1", HOSTILE)
    assert is_same
    assert (read["host"], read["port"]) == ("cache", 6379)
    assert url.startswith("rediss://")
    assert rendered(Form.URL, {**members, "ssl": False}).startswith("redis://")


def test_a_url_needs_no_user_nor_database() -> None:
    """Redis's default user has no name."""
    url = rendered(Form.URL, {"engine": "valkey", "host": "cache", "password": "x/y"})

    assert url == "rediss://:x%2Fy@cache:6379"


@pytest.mark.parametrize(
    "engine, start, port",
    [
        ("aurora-postgresql", "postgresql://", 5432),
        ("aurora-mysql", "mysql://", 3306),
        ("mariadb", "mysql://", 3306),
        ("elasticache-auth-token", "rediss://", 6379),
        ("memorydb", "rediss://", 6379),
    ],
)
def test_the_engine_says_which_scheme_and_which_port(engine: str, start: str, port: int) -> None:
    members = {"engine": engine, "host": "::1", "username": "a", "password": HOSTILE, "dbname": "b"}

    url = rendered(Form.URL, members)
    read = urlsplit(url)

    is_same = (read.username, unquote(read.password or "")) == ("a", HOSTILE)
    assert is_same
    assert url.startswith(start)
    assert (read.hostname, read.port, read.path) == ("::1", port, "/b")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"engine": "iam-access-key"}, "'engine' is none that has URLs"),
        ({"engine": None}, "'engine' is not there"),
        ({"host": "/run/postgresql"}, "'host' is a socket"),
        ({"host": ""}, "'host' is empty"),
        ({"port": "54x"}, "'port' is no port"),
        ({"password": None}, "'password' is not there"),
        ({"password": f"{CANARY}\x00"}, "'password' has a control character"),
    ],
)
def test_what_has_no_place_in_a_url_is_refused(change: dict[str, Any], said: str) -> None:
    assert f"{WHERE} as url: the member {said}" in refusal(Form.URL, {**USUAL, **change})


# ---------------------------------------------------------------------------- pgpass


@pytest.mark.parametrize(
    "change, line",
    [
        ({}, "db.example.com:5432:app:orders:Canary7-x\n"),
        ({"port": "6000"}, "db.example.com:6000:app:orders:Canary7-x\n"),
        ({"dbname": None, "port": None}, "db.example.com:5432:*:orders:Canary7-x\n"),
        ({"username": "*", "host": "::1"}, "\\:\\:1:5432:app:\\*:Canary7-x\n"),
        ({"password": "a:b\\c*"}, "db.example.com:5432:app:orders:a\\:b\\\\c*\n"),
    ],
    ids=["usual", "port", "no database", "stars and colons", "escaped"],
)
def test_a_password_file_is_a_line(change: dict[str, Any], line: str) -> None:
    is_same = rendered(Form.PGPASS, {**USUAL, **change}) == line
    assert is_same


@pytest.mark.parametrize(
    "change, said",
    [
        ({"engine": "mysql"}, "'engine' is not PostgreSQL"),
        ({"username": None}, "'username' is not there"),
        ({"password": f"{CANARY}\n"}, "'password' has a control character"),
        ({"port": "a:b"}, "'port' is no port"),
    ],
)
def test_what_has_no_place_in_a_password_file_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refusal(Form.PGPASS, {**USUAL, **change})
