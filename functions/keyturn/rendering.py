"""The forms in which a stored document is delivered.

    json     as it is, to the byte
    dotenv   NAME='value' lines, of which a shell and python-dotenv make the same
    url      postgresql://user:password@host:port/dbname, every part percent-encoded
    pgpass   a line of libpq's password file
    value    one member, without quotes

What a form cannot carry is refused, by the name of the member: a copy that its reader takes for
something else would be a wrong password. The follow-up calls this, between store and destination.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from urllib.parse import quote

from keyturn import document
from keyturn.errors import Misconfigured
from keyturn.model import Sensitive


class Form(StrEnum):
    """Spelt as in the plan."""

    JSON = "json"
    DOTENV = "dotenv"
    URL = "url"
    PGPASS = "pgpass"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a copy is to look.

    Attributes:
        form: Which form.
        member: For `value`: the name of the member.
        prefix: For `dotenv`: stands before each name.
    """

    form: Form = Form.JSON
    member: str = ""
    prefix: str = ""


def render(stored: Sensitive, how: Rendering, where: str) -> Sensitive:
    """Return the stored document in another form.

    Args:
        stored: The document, or any text if it is to stay as it is.
        how: The form.
        where: The secret and version, for messages.

    Raises:
        Misconfigured: The document has no such member, or one that the form cannot carry. The
            message names the member and never shows a value.
    """
    if how.form is Form.JSON:
        return stored
    found = document.texts(
        stored.reveal(), where, f"Deliver it as json, or store an object: {how.form} needs members."
    )
    source = _Source(f"{where} as {how.form}", found)
    forms: Mapping[Form, Callable[[], str]] = {
        Form.DOTENV: lambda: _dotenv(source, how.prefix),
        Form.URL: lambda: _url(source),
        Form.PGPASS: lambda: _pgpass(source),
        Form.VALUE: lambda: source.need(how.member),
    }
    return Sensitive(forms[how.form]())


def members(stored: Sensitive, where: str) -> Mapping[str, Sensitive]:
    """Return the members of a stored document as text; the whole under the empty name.

    A document that is no object has no members.
    """
    whole = {"": stored}
    try:
        found = document.texts(stored.reveal(), where, "")
    except Misconfigured:
        return whole
    source = _Source(where, found)
    texts = {name: source.text(name) for name in found if name}
    return {**{name: Sensitive(text) for name, text in texts.items() if text is not None}, **whole}


@dataclass(frozen=True, slots=True)
class _Source:
    """The members of a document, each as it is written there."""

    where: str
    members: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """Return a member as text; None if it is absent or null. Objects stay JSON."""
        raw = self.members.get(name, "null")
        if raw == "null":
            return None
        text = str(json.loads(raw)) if raw.startswith('"') else raw
        if _HALF.search(text):
            self.refuse(name, "has half a surrogate pair")
        return text

    def need(self, name: str) -> str:
        """Return a member that must be there, and not empty."""
        text = self.text(name)
        if text is None:
            self.refuse(name, "is not there")
        if not text:
            self.refuse(name, "is empty")
        return text

    def refuse(self, name: str, fact: str) -> NoReturn:
        """Refuse the document because of a member."""
        raise Misconfigured(
            f"{self.where}: the member {name[:40]!a} {fact}",
            remedy="Correct the secret's value, or choose another form, such as json, in the plan.",
        )


_HALF = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# ---------------------------------------------------------------------------- dotenv

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"[A-Za-z0-9_./@%+,:-]+")
"""What needs no quotes anywhere. Without `~` and `=`: shells may expand one after the other."""
_UNCLEAR = re.compile(r"\$\{|\\['\\]|\\\Z")
"""Within single quotes, python-dotenv replaces the first, and takes the others for escapes."""
_ESCAPED = re.compile(r'["$`\\!]')
"""Special within double quotes, to one reader or another."""


def _dotenv(source: _Source, prefix: str) -> str:
    lines = []
    for member in source.members:
        name, text = prefix + member, source.text(member)
        if not _NAME.fullmatch(name):
            source.refuse(member, "is no name of a variable")
        # A variable that is not there is how an environment says null.
        if text is not None:
            lines.append(f"{name}={_quoted(source, member, text)}\n")
    return "".join(lines)


def _quoted(source: _Source, member: str, text: str) -> str:
    if _CONTROL.search(text.replace("\n", "")):
        source.refuse(member, "has a control character")
    if _BARE.fullmatch(text):
        return text
    if "'" not in text and not _UNCLEAR.search(text):
        return f"'{text}'"
    if _ESCAPED.search(text):
        source.refuse(member, "has quotes, $ or \\ that readers of dotenv files take differently")
    return f'"{text}"'


# ---------------------------------------------------------------------------- url, pgpass

_SCHEMES = (
    (re.compile("postgres|aurora-postgres"), "postgresql", "5432"),
    (re.compile("mysql|mariadb|aurora"), "mysql", "3306"),
    (re.compile("redis|valkey|elasticache|memorydb"), "rediss", "6379"),
)
"""By how an `engine` begins; with the port that goes without saying."""


def _url(source: _Source) -> str:
    scheme, port = _scheme(source)
    if scheme == "rediss" and source.text("ssl") == "false":
        scheme = "redis"
    host = source.need("host")
    if host.startswith("/"):
        source.refuse("host", "is a socket, for which a URL has no place")
    user = _encoded(source, "username") if source.text("username") else ""
    place = f"[{host}]" if ":" in host else _encoded(source, "host")
    path = f"/{_encoded(source, 'dbname')}" if source.text("dbname") else ""
    password = _encoded(source, "password")
    return f"{scheme}://{user}:{password}@{place}:{_port(source, port)}{path}"


def _port(source: _Source, usual: str) -> str:
    port = source.text("port") or usual
    if not re.fullmatch("[0-9]{1,5}", port):
        source.refuse("port", "is no port")
    return port


def _encoded(source: _Source, member: str) -> str:
    text = source.need(member)
    if _CONTROL.search(text):
        source.refuse(member, "has a control character")
    return quote(text, safe="")


def _scheme(source: _Source) -> tuple[str, str]:
    engine = source.need("engine")
    known = [(scheme, port) for begins, scheme, port in _SCHEMES if begins.match(engine)]
    if not known:
        source.refuse("engine", "is none that has URLs")
    return known[0]


def _pgpass(source: _Source) -> str:
    scheme, port = _scheme(source)
    if scheme != "postgresql":
        source.refuse("engine", "is not PostgreSQL, whose clients read such a file")
    fields = [
        _field(source, "host"),
        _port(source, port),
        _field(source, "dbname") if source.text("dbname") else "*",
        _field(source, "username"),
        _field(source, "password"),
    ]
    return ":".join(fields) + "\n"


def _field(source: _Source, member: str) -> str:
    text = source.need(member)
    if _CONTROL.search(text):
        source.refuse(member, "has a control character")
    escaped = re.sub(r"([\\:])", r"\\\1", text)
    # A field that is just * matches everything; escaped, it is itself.
    return r"\*" if escaped == "*" else escaped
