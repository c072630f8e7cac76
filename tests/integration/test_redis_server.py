"""What Redis itself sees and keeps: leaks, files, replicas, connections, and how it refuses."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from canary import check
from conftest import need
from databases import plenty_of_time
from keyturn.errors import (
    Denied,
    Drifted,
    KeyturnError,
    LockedOut,
    Misconfigured,
    Unreachable,
    Unsupported,
)
from keyturn.local.redis import SUPERUSER, Keeps, find
from keyturn.local.redis import Redis as Server
from keyturn.model import Credential, Sensitive, Surroundings
from keyturn.strategies import SingleUser
from keyturn.targets.redis import Redis
from keyturn.testing.contracts import version
from keyturn.testing.faults import Moment, Proxy, Verdict
from redises import (
    APPLICATION,
    ROTATION,
    connect,
    credential,
    hashes_of,
    logs_in,
    make_user,
    rules_of,
    unused_name,
)

FIRST, SECOND, THIRD = (f"Canary7-redis-{number}" for number in ("first", "second", "third"))


def _engine() -> Redis:
    return Redis(plenty_of_time())


def _made(*_: object, **__: object) -> Sensitive:
    return Sensitive(SECOND)


@contextmanager
def _served(keeps: Keeps = Keeps.ACL_FILE, **settings: str) -> Iterator[Server]:
    need(present=find() is not None, what="Redis", install="apt install redis-server")
    options = {name.replace("_", "-"): value for name, value in settings.items()}
    with Server(keeps=keeps, settings=options) as server:
        yield server


def _user(server: Server, *rules: str, stem: str = "app") -> Credential:
    name = unused_name(stem)
    make_user(server, name, FIRST, *(rules or (*APPLICATION, *ROTATION)))
    return credential(server, name, FIRST)


def _set(login: Credential, secret: str, principal: str | None = None) -> None:
    with _engine().login(login) as session:
        assert session is not None
        session.set_password(principal or login.principal, Sensitive(secret))


def _always() -> bool:
    return True


def _never() -> bool:
    return False


# ---------------------------------------------------------------------------- leaks


class _Monitor:
    """Reads what MONITOR shows, as somebody would who may."""

    def __init__(self, server: Server) -> None:
        superuser = server.superuser()
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(superuser["unix_socket_path"])
        self._line.settimeout(2)
        login = f"AUTH {SUPERUSER} {superuser['password']}\r\nMONITOR\r\n"
        self._line.sendall(login.encode())
        self.heard = b""

    def hear(self, until: bytes) -> str:
        """Listen until something is heard."""
        with self._line:
            while until not in self.heard:
                self.heard += self._line.recv(65_536)
        return self.heard.decode("utf-8", "replace")


def test_no_password_reaches_monitor_slowlog_log_or_file(
    redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """P6, with every command in the slow log, failing commands and logins included."""
    caplog.set_level(logging.DEBUG)
    app, weak, name = _user(redis), _user(redis, "+info"), unused_name("twin")
    monitor = _Monitor(redis)
    with _engine().login(app) as session:
        assert session is not None
        session.set_dual(app.principal, Sensitive(SECOND), keep=app.secret)
        session.set_password(app.principal, Sensitive(SECOND))
        session.set_twin(name, Sensitive(THIRD), like=app.principal, owner="")
        with pytest.raises(Drifted):
            session.set_password("nobody_of_that_name", Sensitive(THIRD))
    with pytest.raises(Denied):
        _set(weak, THIRD)
    with _engine().login(replace(app, secret=Sensitive(f"{THIRD}-wrong"))) as session:
        assert session is None

    with connect(redis) as superuser:
        slowlog = str(superuser.execute_command("SLOWLOG", "GET", "1000"))
        denied = str(superuser.acl_log())
        superuser.echo("the end")
    seen = monitor.hear(b"the end")
    kept = redis.users_file.read_text()
    assert app.principal in seen
    assert "setuser" in slowlog.lower()
    assert weak.principal in denied
    assert name in kept
    for text, where in (
        (seen, "MONITOR"),
        (slowlog, "SLOWLOG"),
        (denied, "ACL LOG"),
        (kept, "the aclfile"),
        (redis.log_text(), "the server's log"),
        (caplog.text, "our log"),
    ):
        check(text, where)


def test_a_server_without_users_hides_the_password_it_takes_in_clear() -> None:
    """7.0 does; servers before 6.0, where it is needed, do not: docs/redis.md."""
    with Server(
        keeps=Keeps.NOTHING,
        users=(),
        settings={"rename-command": 'ACL ""', "slowlog-log-slower-than": "0"},
    ) as server:
        login = credential(server, "default", FIRST)
        with _engine().login(login) as session:
            assert session is not None
            session.set_password("default", Sensitive(SECOND))
            with pytest.raises(Drifted, match="no user 'other'"):
                session.set_password("other", Sensitive(SECOND))
            with pytest.raises(Unsupported, match="one password and no users"):
                session.check_dual("default")
            with pytest.raises(Unsupported, match="one password and no users"):
                session.check_twin("a", like="default", owner="", is_ours=_always)

        check(server.log_text(), "the server's log")
        assert logs_in(server, "default", SECOND)
        assert not logs_in(server, "default", FIRST)


# ---------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("keeps", [Keeps.ACL_FILE, Keeps.CONFIG_FILE])
def test_a_restart_keeps_the_new_password(keeps: Keeps) -> None:
    with _served(keeps) as server:
        login = _user(server)
        _set(login, SECOND)

        server.restart()

        assert logs_in(server, login.principal, SECOND)
        assert not logs_in(server, login.principal, FIRST)


def test_requirepass_yields_to_the_new_password_after_a_restart() -> None:
    """The old one stays in the configuration file, and opens nothing."""
    with Server(keeps=Keeps.CONFIG_FILE, users=(), settings={"requirepass": FIRST}) as server:
        _set(credential(server, "default", FIRST), SECOND)

        server.restart()

        assert logs_in(server, "default", SECOND)
        assert not logs_in(server, "default", FIRST)
        assert SECOND not in server.users_file.read_text()


def test_a_server_that_keeps_nothing_is_taken_as_it_is() -> None:
    with _served(Keeps.NOTHING) as server:
        login = _user(server)

        _set(login, SECOND)

        assert logs_in(server, login.principal, SECOND)


@pytest.mark.parametrize("keeps", [Keeps.ACL_FILE, Keeps.CONFIG_FILE])
def test_what_cannot_be_kept_is_not_begun(keeps: Keeps) -> None:
    """The password is as it was; once the file can be written, the same call does it all."""
    with _served(keeps) as server:
        login, file = _user(server), server.users_file
        hidden = file.with_name("hidden")
        _hide(file, hidden)
        with pytest.raises(Misconfigured, match="failed, so the server would forget"):
            _set(login, SECOND)
        assert logs_in(server, login.principal, FIRST)
        assert not logs_in(server, login.principal, SECOND)

        _restore(file, hidden)
        _set(login, SECOND)
        server.restart()

        assert logs_in(server, login.principal, SECOND)


def _hide(file: Path, hidden: Path) -> None:
    """Make a file unwritable even for root: a folder is in its place."""
    file.rename(hidden)
    file.mkdir()
    (file / "occupied").touch()


def _restore(file: Path, hidden: Path) -> None:
    shutil.rmtree(file)
    hidden.rename(file)


def test_a_retry_saves_what_an_earlier_try_only_set() -> None:
    """The server restarted before a saving could be tried again: the old password is back."""
    with _served() as server:
        login = _user(server)
        with connect(server) as superuser:
            superuser.execute_command("ACL", "SETUSER", login.principal, "resetpass", f">{SECOND}")

        _set(replace(login, secret=Sensitive(SECOND)), SECOND)
        server.restart()

        assert logs_in(server, login.principal, SECOND)


@pytest.mark.parametrize("name", ['quo"te', "quo'te"])
def test_a_configuration_file_that_could_not_be_read_again_is_not_written(name: str) -> None:
    """The server writes users unquoted: it would not start again. An aclfile can hold them."""
    for keeps, held in ((Keeps.CONFIG_FILE, False), (Keeps.ACL_FILE, True)):
        with _served(keeps) as server:
            login = _user(server)
            make_user(server, name, FIRST, "+get")
            if held:
                _set(login, SECOND)
                _set(credential(server, SUPERUSER, server.superuser()["password"]), SECOND, name)
                server.restart()
                assert logs_in(server, name, SECOND)
            else:
                with pytest.raises(Unsupported, match="cannot hold the user"):
                    _set(login, SECOND)
            assert logs_in(server, login.principal, SECOND) is held


# ---------------------------------------------------------------------------- several servers


def _replica_of(server: Server) -> dict[str, str]:
    return {
        "replicaof": f"{server.host} {server.port}",
        "masteruser": SUPERUSER,
        "masterauth": server.superuser()["password"],
    }


def test_replicas_have_users_of_their_own_and_are_refused() -> None:
    """A consumer of a replica would keep the old password, and lose it at a failover."""
    with _served(repl_diskless_sync_delay="0") as primary:
        login = _user(primary)
        with Server(settings=_replica_of(primary)) as replica:
            make_user(replica, login.principal, FIRST, *APPLICATION, *ROTATION)
            _wait(lambda: "connected_slaves:1" in _replication(primary))
            with connect(primary) as superuser:
                superuser.set("seen", "1")
                superuser.execute_command("ACL", "SETUSER", "only_here", "on")
            _wait(lambda: _has_key(replica, "seen"))
            with connect(replica) as superuser:
                assert "only_here" not in superuser.acl_users()

            with pytest.raises(Unsupported, match=r"has replicas \(1\)"):
                _set(login, SECOND)
            with pytest.raises(Misconfigured, match="is a replica"):
                _set(credential(replica, login.principal, FIRST), SECOND)

        assert logs_in(primary, login.principal, FIRST)


def _replication(server: Server) -> str:
    with connect(server) as superuser:
        found = superuser.info("replication")
    return "\n".join(f"{key}:{value}" for key, value in found.items())


def _has_key(server: Server, key: str) -> bool:
    with connect(server) as superuser:
        return bool(superuser.exists(key))


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_of_a_cluster_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        bus = str(free.getsockname()[1])
    with _served(cluster_enabled="yes", cluster_port=bus) as server:
        login = _user(server)

        with pytest.raises(Unsupported, match="node of a cluster"):
            _set(login, SECOND)

        assert logs_in(server, login.principal, FIRST)


# ---------------------------------------------------------------------------- two passwords


def test_two_passwords_are_exactly_two(redis: Server) -> None:
    """Set equality: whatever else logged in before does so no more, and repeating is nothing."""
    login = _user(redis)
    with connect(redis) as superuser:
        superuser.execute_command("ACL", "SETUSER", login.principal, f">{THIRD}")

    with _engine().login(login) as session:
        assert session is not None
        session.check_dual(login.principal)
        for _ in range(2):
            session.set_dual(login.principal, Sensitive(SECOND), keep=login.secret)

    accepted = [logs_in(redis, login.principal, each) for each in (FIRST, SECOND, THIRD)]
    assert accepted == [True, True, False]
    assert len(hashes_of(redis, login.principal)) == 2


def test_a_change_keeps_connections_that_are_open(redis: Server) -> None:
    """A consumer notices at its next login only; so does whoever stole the password."""
    login = _user(redis)
    import redis as driver

    application = driver.Redis(
        unix_socket_path=str(redis.socket), username=login.principal, password=FIRST
    )
    with application:
        application.set("k", "v")

        _set(login, SECOND)

        assert application.get("k") == b"v"


# ---------------------------------------------------------------------------- twins

RULES = ("~app:*", "%R~shared:*", "&news*", "+@read", "+set", "-keys", "(~odd:* +incr)")


def _turn(server: Server, twin: str, like: str, is_ours: Callable[[], bool] = _never) -> None:
    admin = _user(server, *ROTATION, stem="admin")
    with _engine().login(admin) as session:
        assert session is not None
        session.check_twin(twin, like=like, owner="", is_ours=is_ours)
        session.set_twin(twin, Sensitive(SECOND), like=like, owner="")


def test_a_twin_may_do_what_the_other_may_and_no_more(redis: Server) -> None:
    """Selectors, channels and refusals too; what was taken away is taken away."""
    like, twin = _user(redis, *RULES).principal, unused_name("twin")
    _turn(redis, twin, like)
    assert rules_of(redis, twin) == rules_of(redis, like)
    assert any("odd" in rule for rule in rules_of(redis, twin))

    make_user(redis, like, FIRST, "~app:*", "+get")
    with connect(redis) as superuser:
        superuser.execute_command("ACL", "SETUSER", twin, "off", "nopass", "+@all", f">{THIRD}")
    _turn(redis, twin, like, _always)

    assert rules_of(redis, twin) == rules_of(redis, like)
    assert logs_in(redis, twin, SECOND)
    assert not logs_in(redis, twin, THIRD)


def test_a_user_of_somebody_else_is_not_taken_over(redis: Server) -> None:
    """The plan or the store must vouch for it, and is asked only if there is one."""
    like, stranger = _user(redis).principal, _user(redis, "+get")

    with pytest.raises(Drifted, match="not known to be ours"):
        _turn(redis, stranger.principal, like)

    assert logs_in(redis, stranger.principal, FIRST)
    _turn(redis, unused_name("twin"), like, pytest.fail)


def test_an_admin_is_never_its_own_twin(redis: Server) -> None:
    """It would get an application's rights, and could give them back to nobody."""
    like, admin = _user(redis).principal, _user(redis, *ROTATION)

    with _engine().login(admin) as session:
        assert session is not None
        with pytest.raises(Drifted):
            session.check_twin(admin.principal, like=like, owner="", is_ours=_always)


def test_who_does_not_exist_is_not_created(redis: Server) -> None:
    """ACL SETUSER would."""
    admin, missing = _user(redis, *ROTATION), unused_name("missing")

    with _engine().login(admin) as session:
        assert session is not None
        acts: list[Callable[[], None]] = [
            lambda: session.set_password(missing, Sensitive(SECOND)),
            lambda: session.check_dual(missing),
            lambda: session.set_dual(missing, Sensitive(SECOND), keep=Sensitive(FIRST)),
            lambda: session.check_twin("x", like=missing, owner="", is_ours=_never),
            lambda: session.set_twin("x", Sensitive(SECOND), like=missing, owner=""),
        ]
        for act in acts:
            with pytest.raises(Drifted, match="there is no user"):
                act()

    with connect(redis) as superuser:
        assert not {missing, "x"} & set(superuser.acl_users())


# ---------------------------------------------------------------------------- permissions

NEEDED_BY_ALL = ("info", "config|get", "acl|setuser", "acl|save")


def test_the_page_lists_what_the_tests_grant() -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    listed = page.partition("```text\n")[2].partition("```")[0]

    assert set(listed.split()) == set(ROTATION)


@pytest.mark.parametrize("missing", NEEDED_BY_ALL)
def test_a_missing_permission_is_denied_and_nothing_is_changed(redis: Server, missing: str) -> None:
    login = _user(redis, *(rule for rule in ROTATION if rule != f"+{missing}"))

    with pytest.raises(Denied, match="NOPERM"):
        _set(login, SECOND)

    assert logs_in(redis, login.principal, FIRST)


@pytest.mark.parametrize("missing", ["acl|setuser", "info", "config|get", "acl|list"])
def test_a_check_says_beforehand_that_a_permission_is_missing(redis: Server, missing: str) -> None:
    admin = _user(redis, *(rule for rule in ROTATION if rule != f"+{missing}"))
    app, twin = _user(redis), unused_name("twin")

    with _engine().login(admin) as session:
        assert session is not None
        with pytest.raises(Denied, match="NOPERM"):
            session.check_dual(app.principal)
        with pytest.raises(Denied, match="NOPERM"):
            session.check_twin(twin, like=app.principal, owner="", is_ours=_never)

    with connect(redis) as superuser:
        assert twin not in superuser.acl_users()


@pytest.mark.parametrize("spare", ["client|list", "client|kill", "client|setname", "acl|whoami"])
def test_what_only_helps_is_not_required(redis: Server, spare: str) -> None:
    login = _user(redis, *(rule for rule in ROTATION if rule != f"+{spare}"))

    _set(login, SECOND)

    assert logs_in(redis, login.principal, SECOND)


def test_the_rules_of_the_page_are_enough_to_keep_a_configuration_file() -> None:
    """And each of them is needed."""
    with _served(Keeps.CONFIG_FILE) as server:
        for missing in ("config|rewrite", "acl|list"):
            login = _user(server, *(rule for rule in ROTATION if rule != f"+{missing}"))
            with pytest.raises(Denied, match="NOPERM"):
                _set(login, SECOND)
            assert logs_in(server, login.principal, FIRST)
        login = _user(server, *(rule for rule in ROTATION if rule != "+acl|save"))

        _set(login, SECOND)

        assert logs_in(server, login.principal, SECOND)


# ---------------------------------------------------------------------------- late workers


def test_a_stalled_workers_connection_is_ended_by_the_next_change(redis: Server) -> None:
    """Its change would arrive after another rotation has come and gone."""
    login = _user(redis)
    with _engine().login(login) as stalled:
        assert stalled is not None
        _set(login, SECOND)

        with pytest.raises(Unreachable):
            stalled.set_password(login.principal, Sensitive(THIRD))

    assert logs_in(redis, login.principal, SECOND)


def test_only_connections_for_the_same_user_are_ended(redis: Server) -> None:
    """One admin may rotate many secrets at the same moment."""
    admin, one, other = _user(redis, *ROTATION, stem="admin"), _user(redis), _user(redis)
    with _engine().login(admin) as first, _engine().login(admin) as second:
        assert first is not None
        assert second is not None
        for session, user in ((first, one), (second, other)):
            session.check_dual(user.principal)
        for session, user in ((first, one), (second, other)):
            session.set_password(user.principal, Sensitive(SECOND))

    assert logs_in(redis, one.principal, SECOND)
    assert logs_in(redis, other.principal, SECOND)


# ---------------------------------------------------------------------------- budgets


def test_a_rotation_makes_no_failing_login_and_few_exchanges(redis: Server) -> None:
    login = _user(redis)
    with Proxy(redis.port) as proxy:
        login = replace(login, fields={**login.fields, "port": proxy.port})
        target = SingleUser(_engine(), _made)
        pending = version(replace(login, secret=Sensitive(SECOND)), "v1")
        target.set(lambda: pending, version(login, "v0"), [])
        assert (proxy.connections, proxy.exchanges) == (1, 4)
        assert target.accepts(pending.credential)
        assert (proxy.connections, proxy.exchanges) == (2, 5)

    assert _failed_logins(redis, login.principal) == 0


def test_a_candidate_costs_one_failing_login_at_most(redis: Server) -> None:
    login = _user(redis)
    wrong = [replace(login, secret=Sensitive(f"Canary7-wrong-{each}")) for each in range(3)]
    target = SingleUser(_engine(), _made)

    with pytest.raises(LockedOut):
        target.set(
            lambda: version(wrong[1], "v1"), version(wrong[0], "v0"), [version(wrong[2], "v2")]
        )

    assert _failed_logins(redis, login.principal) == 3


def _failed_logins(server: Server, name: str) -> int:
    with connect(server) as superuser:
        return sum(
            entry["count"]
            for entry in superuser.acl_log()
            if entry["reason"] == "auth" and entry["username"] == name
        )


# ---------------------------------------------------------------------------- refusals


def _why(login: Credential, remaining_s: float = 60.0) -> str:
    try:
        with Redis(Surroundings(lambda: remaining_s)).login(login) as session:
            return "in" if session else "refused"
    except KeyturnError as error:
        return f"{type(error).__name__}: {error}"


def test_what_went_wrong_is_told_apart(redis: Server) -> None:
    login = _user(redis)
    disabled = _user(redis)
    with connect(redis) as superuser:
        superuser.execute_command("ACL", "SETUSER", disabled.principal, "off")

    def changed(**fields: object) -> Credential:
        return replace(login, fields={**login.fields, **fields})

    assert _why(login) == "in"
    assert _why(changed(host=str(redis.socket))) == "in"
    assert _why(replace(login, secret=Sensitive("wrong"))) == "refused"
    assert _why(replace(login, principal="nobody_of_that_name")) == "refused"
    assert _why(disabled) == "refused"
    assert _why(changed(port=1)).startswith("Unreachable: 127.0.0.1: the server refuses conn")
    assert _why(changed(host="no-such-host.invalid", ssl=None)).startswith(
        "Unreachable: no-such-host.invalid: the host name has no"
    )
    assert _why(login, 0.5) == "Unreachable: 127.0.0.1: no time is left for another call"


BAD: dict[str, list[object]] = {
    "host": [None, 1, "", "a b", "a,b", "a\nb", "x" * 256],
    "port": [0, 65_536, True, "abc", "6379 ", 1.5, []],
    "ssl": ["no", 0, ""],
}


@pytest.mark.parametrize(
    "key, value", [(key, value) for key, values in BAD.items() for value in values]
)
def test_a_malformed_member_is_refused_before_any_call(key: str, value: object) -> None:
    login = Credential("app", Sensitive(FIRST), {"host": "127.0.0.1", key: value})

    with pytest.raises(Misconfigured, match=key):
        _engine().endpoint(login)


@pytest.mark.parametrize("name", ["", "a b", "a\0b", "a\nb", "\x7f", "\u200b", "\ud800", "x" * 256])
def test_a_name_that_the_server_cannot_hold_is_refused(name: str) -> None:
    login = Credential(name, Sensitive(FIRST), {"host": "127.0.0.1"})

    with pytest.raises(Misconfigured, match="username"):
        _engine().endpoint(login)


class _Scripted:
    """Says what it is told, whatever it is asked."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[bytes] = []

    @contextmanager
    def listening(self) -> Iterator[Credential]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        yield Credential(
            "default",
            Sensitive(FIRST),
            {"host": "127.0.0.1", "port": self.port, "ssl": False},
        )
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        thread.join(5)

    def _serve(self) -> None:
        with suppress(OSError):
            line, _ = self._listener.accept()
            with line:
                line.settimeout(2)
                for answer in self._answers:
                    self.heard.append(line.recv(65_536))
                    line.sendall(answer)
                line.recv(1)


WORDS = {
    "LOADING Redis is loading the dataset in memory": "Unreachable",
    "BUSY Redis is busy running a script": "Unreachable",
    "MASTERDOWN Link with MASTER is down": "Unreachable",
    "CLUSTERDOWN The cluster is down": "Unreachable",
    "MISCONF Redis is configured to save RDB snapshots": "Unreachable",
    "OOM command not allowed when used memory > 'maxmemory'.": "Unreachable",
    "READONLY You can't write against a read only replica.": "Misconfigured",
    "DENIED Redis is running in protected mode": "Misconfigured",
    "ERR max number of clients reached": "Unreachable",
    "NOAUTH Authentication required.": "Unreachable",
    "NOPERM this user has no permissions": "Denied",
    "WRONGPASS invalid username-password pair or user is disabled.": "refused",
    "ERR invalid password": "refused",
    "ERR Client sent AUTH, but no password is set": "Drifted",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure"
    " your configuration is correct?": "Drifted",
    "ERR unknown command 'AUTH'": "Unsupported",
    "ERR something new": "Unsupported",
    "SOMETHING new": "Unsupported",
    "": "Unsupported",
}


@pytest.mark.parametrize("said", WORDS)
def test_an_error_is_known_by_its_first_word(said: str) -> None:
    """And what it goes on with is not repeated: it may quote."""
    answer = f"-{said} {FIRST}\r\n+OK\r\n" if said.endswith("new") else f"-{said}\r\n+OK\r\n"
    server = _Scripted(answer.encode())

    with server.listening() as login:
        why = _why(login)

    assert why.startswith(WORDS[said])


def test_a_server_before_6_0_is_logged_in_to_without_a_name() -> None:
    """It has one password, of nobody in particular."""
    arity = b"-ERR wrong number of arguments for 'auth' command\r\n"
    server = _Scripted(arity + b"+OK\r\n", b"+OK\r\n")
    with server.listening() as login:
        assert _why(login) == "in"
    assert server.heard[1].startswith(b"*2\r\n$4\r\nAUTH\r\n")

    server = _Scripted(arity + b"+OK\r\n")
    with server.listening() as login:
        assert _why(replace(login, principal="app")).startswith("Unsupported: 127.0.0.1: the se")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x03\0\x02\x02P\r\n"])
def test_what_is_no_redis_is_said_to_be_none(said: bytes) -> None:
    with _Scripted(said).listening() as login:
        assert _why(login).startswith("Misconfigured: 127.0.0.1: what answers does not speak")


def test_a_full_server_is_no_refusal() -> None:
    with _served(maxclients="1") as server:
        login = credential(server, SUPERUSER, server.superuser()["password"])
        with _engine().login(login):
            assert _why(login).startswith("Unreachable")


def test_a_server_that_does_not_answer_is_given_up_in_time(redis: Server) -> None:
    login = _user(redis)
    go_on = threading.Event()

    def stall(number: int, moment: Moment) -> Verdict:
        del number, moment
        go_on.wait(3)
        return Verdict.PASS

    with (
        Proxy(redis.port) as proxy,
        Redis(Surroundings(lambda: 1.5)).login(
            replace(login, fields={**login.fields, "port": proxy.port})
        ) as session,
    ):
        assert session is not None
        proxy.reset(stall)
        started = time.monotonic()
        with pytest.raises(Unreachable, match="in time"):
            session.set_password(login.principal, Sensitive(SECOND))
        took_s = time.monotonic() - started
        go_on.set()
        # The driver would connect again, without a login.
        with pytest.raises(Unreachable, match="hung up"):
            session.set_password(login.principal, Sensitive(SECOND))

    assert took_s < 2
