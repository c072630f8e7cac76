"""A rendered password file lets libpq in, whatever the password."""

from __future__ import annotations

import json
import string
from pathlib import Path

import psycopg
import pytest

from databases import make_login, unused_name
from keyturn.local.postgres import Postgres
from keyturn.model import Sensitive
from keyturn.rendering import Form, Rendering, render

CANARY = "Canary7-"
PASSWORDS = [
    *(f"{CANARY}{special}x" for special in (":", "\\", "\\:", ":\\", "*", "#", "'", '"', " ")),
    f"{CANARY}{string.punctuation}é世",
    f"{CANARY}\\",
    f"{CANARY}:",
    f"#{CANARY}",
]


@pytest.mark.parametrize("password", PASSWORDS, ids=lambda text: ascii(text[-6:]))
def test_libpq_logs_in_with_a_rendered_password_file(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory, password: str
) -> None:
    user = unused_name("pg:pass\\")
    make_login(postgres, user, password)
    members = {
        "engine": "postgres",
        "host": postgres.host,
        "port": postgres.port,
        "username": user,
        "password": password,
    }
    file = pgpass(tmp_path_factory.mktemp("pgpass"), members)

    with psycopg.connect(
        host=postgres.host, port=postgres.port, user=user, dbname="postgres", passfile=str(file)
    ) as connection:
        (name,) = connection.execute("SELECT current_user").fetchone() or ("",)

    assert name == user


def pgpass(folder: Path, members: dict[str, object]) -> Path:
    line = render(Sensitive(json.dumps(members)), Rendering(Form.PGPASS), "here")
    file = folder / "pgpass"
    file.touch(mode=0o600)
    file.write_text(line.reveal(), encoding="utf-8")
    return file
