"""A password with its bcrypt hash beside it: for web servers, registries, Traefik, Prometheus.

The client reads the password, the server the hash. `bcrypt` hashes; it is imported on first use.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Annotated

import msgspec

from keyturn import generate
from keyturn.errors import Unsupported
from keyturn.generate import CharacterClass, PasswordPolicy
from keyturn.generators.policy import MembersPolicy, Problem, outside, texts
from keyturn.generators.text import AnyCharset, Exclude, Length, Require, problems_of

LONGEST = 72
"""Characters. bcrypt ignores whatever comes after byte 72, or refuses it."""

CHEAPEST, DEAREST = 10, 15
"""The base-2 logarithm of bcrypt's rounds. At 15 a hash takes seconds."""


class Htpasswd(MembersPolicy, frozen=True, kw_only=True, tag="htpasswd"):
    """A password and its bcrypt hash: `username`, `password`, `hash`, and `htpasswd`, a line."""

    user: Annotated[str, msgspec.Meta(description="Whose password it is.")]
    length: Length = 40
    charset: AnyCharset = generate.Charset.DEFAULT
    exclude: Exclude = ""
    require: Require = tuple(CharacterClass)
    cost: Annotated[
        int,
        msgspec.Meta(
            description="The base-2 logarithm of the number of rounds.",
            extra_json_schema={"minimum": CHEAPEST, "maximum": DEAREST},
        ),
    ] = 12

    @property
    def _policy(self) -> PasswordPolicy:
        return PasswordPolicy(self.length, self.charset, self.exclude, self.require)

    @property
    def entropy_bits(self) -> float:
        """The password's, exactly."""
        return self._policy.entropy_bits

    def problems(self) -> Iterator[Problem]:
        """Refuse what a line of the file, or the hash, cannot hold."""
        if not self.user or ":" in self.user or not self.user.isprintable():
            yield "`user` is no name for a line of htpasswd", "Write a name without a colon."
        yield from outside("length", self.length, 1, LONGEST)
        yield from outside("cost", self.cost, CHEAPEST, DEAREST)
        yield from problems_of(self._policy)

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make a password, and hash it."""
        del before
        bcrypt = _bcrypt()
        password = generate.password(self._policy).reveal()
        salted = bcrypt.hashpw(password.encode(), bcrypt.gensalt(self.cost)).decode()
        # The same hash by the name that Apache knows: it takes 2a and 2y only (apr_password.c).
        hashed = salted.replace("$2b$", "$2y$", 1)
        return {
            "username": self.user,
            "password": password,
            "hash": hashed,
            "htpasswd": f"{self.user}:{hashed}",
        }

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether the hash is the password's, and the line is made of both."""
        found = texts(members, "username", "password", "hash", "htpasswd")
        if found is None:
            return False
        user, password, hashed, line = found
        is_hash = re.fullmatch(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}", hashed) is not None
        return (
            is_hash
            and line == f"{user}:{hashed}"
            and len(password.encode()) <= LONGEST
            and bool(_bcrypt().checkpw(password.encode(), hashed.encode()))
        )


def _bcrypt() -> ModuleType:
    if importlib.util.find_spec("bcrypt") is None:
        raise Unsupported(
            "this installation cannot hash passwords: it has no `bcrypt`",
            remedy="Install keyturn[generate], or deploy the function that generates.",
        )
    return importlib.import_module("bcrypt")
