"""Statements for MySQL and MariaDB, composed so that nothing gets in unquoted.

Names are quoted with backticks, which hold in every `sql_mode`; other texts are hexadecimal
literals. `Sql` is text that is known to be quoted, and only such text is put into a statement.
"""

from __future__ import annotations

from typing import LiteralString, NewType

Sql = NewType("Sql", str)
"""Part of a statement, quoted."""


def sql(template: LiteralString, *parts: Sql) -> Sql:
    """Fill *parts* into a literal."""
    return Sql(template.format(*parts))


def name(text: str) -> Sql:
    """Quote an identifier, or either half of an account's name."""
    return Sql("`" + text.replace("`", "``") + "`")


def account(user: str, host: str) -> Sql:
    """Name an account."""
    return sql("{}@{}", name(user), name(host))


def literal(text: str) -> Sql:
    """Write a text that no `sql_mode` reads otherwise."""
    return Sql(f"_utf8mb4 0x{text.encode().hex()}") if text else Sql("''")


def number(value: int) -> Sql:
    """Write a number."""
    return Sql(str(value))


def joined(statements: list[Sql], by: LiteralString = "; ") -> Sql:
    """Put several after each other."""
    return Sql(by.join(statements))
