"""Who gets the new password, and on whose authority. Knows no database.

SingleUser         one account changes its own password; one slot, so there is a short time
                   in which readers of current are refused
PlatformUser       the same, but the platform that runs the target changes it
DualPassword       one account, two passwords: current is always accepted. The engine must
                   know how, and somebody must be allowed to
AlternatingUsers   two accounts take turns, an admin sets them; current is always accepted
BestOffered        DualPassword where it is offered, else one of the others
Generated          nobody: there is no target, and the value is all there is
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from keyturn.errors import (
    Busy,
    Denied,
    Drifted,
    KeyturnError,
    LockedOut,
    Misconfigured,
    NotYetAccepted,
    Unsupported,
)
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import (
    Authority,
    DatedSession,
    DualSession,
    Generate,
    Kind,
    PasswordEngine,
    Pending,
    SeenSession,
    Session,
    Target,
    TwinSession,
)

Admin = Callable[[], Credential]
"""Reads the admin's credential; called only where it is needed."""


class SingleUser:
    """One account changes its own password.

    Between set and finish, readers of current hold a password that the target refuses. Choose it
    where consumers reconnect with a fresh read, or where there is no admin credential.

    Args:
        failed_logins: How many logins set may fail, for a server that locks accounts.
    """

    def __init__(
        self, engine: PasswordEngine, generate: Generate, failed_logins: int | None = None
    ) -> None:
        self._engine = engine
        self._generate = generate
        self._own = _OwnAccount(engine, failed_logins)

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`."""
        del kept  # The account is the secret's own.
        self._engine.endpoint(current)
        return replace(current, secret=self._generate())

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Makes no failing login when current still works."""
        with self._own.session(pending, current, kept) as session:
            following = self._own.checked(pending(), current).credential
            # Also if that is what has logged in: an earlier try may not have come to its end.
            session.set_password(following.principal, following.secret)

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        with self._engine.login(credential) as session:
            return session is not None


class PlatformUser:
    """One account, whose password the platform sets: the master user of a managed database.

    Between set and finish, readers of current are refused, as with `SingleUser`. But no password
    authorises the change, so that none that is lost prevents it: nobody is ever locked out.

    Args:
        authority: Makes the authority; called only where it is needed.
    """

    def __init__(
        self, engine: PasswordEngine, generate: Generate, authority: Callable[[], Authority]
    ) -> None:
        self._engine = engine
        self._generate = generate
        self._authority = authority
        self._own = _OwnAccount(engine)

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. Asks the platform, so that a refusal comes before any write."""
        del kept  # The account is the secret's own.
        place = _host(self._engine.endpoint(current))
        following = replace(current, secret=self._generate())
        self._authority().check(place, following)
        return following

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Makes no failing login when current still works."""
        del kept  # No login authorises the change.
        authority, now = self._authority(), current.credential
        # A dead worker may have asked for a change. Not before it is over do logins tell anything.
        authority.settle(_host(self._engine.endpoint(now)), now.principal)
        if not self._is_set(pending, current):
            following = self._own.checked(pending(), current).credential
            authority.set_password(following.principal, following.secret)

    def _is_set(self, pending: Pending, current: Version) -> bool:
        # While current logs in, pending cannot have been set.
        if self.accepts(current.credential):
            return False
        return self.accepts(self._own.checked(pending(), current).credential)

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        with self._engine.login(credential) as session:
            return session is not None


class DualPassword:
    """One account holds two passwords: current goes on working while pending is set.

    Which two follows from the store: current's and pending's, and no other. What the rotation
    before left is dropped with the next one, or by `retire`.

    Args:
        admin: Who sets them; None is the account itself.
        failed_logins: How many logins create and set may fail, for a server that locks accounts.
    """

    def __init__(
        self,
        engine: PasswordEngine,
        generate: Generate,
        admin: Admin | None = None,
        failed_logins: int | None = None,
    ) -> None:
        self._engine = engine
        self._generate = generate
        # Where set fails one, create has failed the same one before.
        self._own = _OwnAccount(engine, failed_logins and failed_logins - 1)
        self._admin = _AdminAccount(engine, admin) if admin else None

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. Asks the target, so that a refusal comes before any write."""
        del kept  # The account is the secret's own.
        self._engine.endpoint(current)
        with self._session(current) as session:
            # Current may be refused, after changes by hand: set looks for another authority.
            if session is not None:
                _dual(session).check_dual(current.principal)
        return replace(current, secret=self._generate())

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Makes no failing login when current still works."""
        with self._authority(pending, current, kept) as session:
            _dual(session).check_dual(current.credential.principal)
            following = self._own.checked(pending(), current).credential
            keep = current.credential.secret
            _dual(session).set_dual(following.principal, following.secret, keep=keep)

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        with self._engine.login(credential) as session:
            return session is not None

    def is_asked(self) -> bool:
        """See `Asked`."""
        return True

    def retire(self, current: Pending) -> None:
        """See `Retiring.retire`.

        Which of the two passwords a session was opened with, no engine tells. One that is older
        than what is current was not opened with that.
        """
        version = current()
        if not self.accepts(version.credential):
            raise _current_refused(version)
        with self._session(version.credential) as session:
            if session is None:
                raise _current_refused(version)
            _require_unused_before(version, session)
            if current().rotation_id != version.rotation_id:
                raise _superseded(version)
            session.set_password(version.credential.principal, version.credential.secret)

    def offer(self, current: Credential) -> KeyturnError | None:
        """Return why the target would refuse this strategy, or None if it offers it."""
        try:
            with self._session(current) as session:
                if session is None:
                    return _not_to_be_asked(current)
                _dual(session).check_dual(current.principal)
        except (Denied, Unsupported) as refusal:
            return refusal
        return None

    def _authority(
        self, pending: Pending, current: Version, kept: Iterable[Version]
    ) -> AbstractContextManager[Session]:
        if self._admin is not None:
            return self._admin.login(current.credential)
        return self._own.session(pending, current, kept)

    def _session(self, current: Credential) -> AbstractContextManager[Session | None]:
        """Log in as whoever sets; None if that is the account itself, and it is refused."""
        return self._admin.login(current) if self._admin else self._engine.login(current)


class BestOffered:
    """Two passwords where the target offers that, the strategy *otherwise* elsewhere.

    Asks anew in each step: privileges come and go. What is pending already is set by the strategy
    that made it.
    """

    def __init__(self, dual: DualPassword, otherwise: Target) -> None:
        self._dual = dual
        self._otherwise = otherwise

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`."""
        return self._best(current).create(current, kept)

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`."""
        has_turned = pending().credential.principal != current.credential.principal
        best = self._otherwise if has_turned else self._best(current.credential)
        best.set(pending, current, kept)

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        return self._otherwise.accepts(credential)

    def is_asked(self) -> bool:
        """See `Asked`."""
        return True

    def _best(self, current: Credential) -> Target:
        return self._dual if self._dual.offer(current) is None else self._otherwise


@dataclass(frozen=True, slots=True)
class Pair:
    """Two logins that take turns, and the role whose privileges both act with.

    Attributes:
        users: The two login names.
        owner: Owns what either makes. It may be one of the two, as after a migration.
        is_declared: Whether the deployment names both. Names alone prove nothing.
    """

    users: tuple[str, str]
    owner: str
    is_declared: bool = False

    def other(self, principal: str) -> str:
        """Return whose turn is next."""
        first, second = self.users
        if principal not in self.users:
            raise Drifted(
                f"the secret's user {principal!r} is neither {first!r} nor {second!r}",
                remedy="Name the user that the secret holds now in the plan's `users`.",
            )
        return second if principal == first else first


CLONE_SUFFIX = "_clone"
"""How the official alternating-users templates name the second login of a pair."""


def pair_by_suffix(principal: str) -> Pair:
    """Return the pair that the official templates would use: ``app`` and ``app_clone``.

    ``app`` is the owner of what both make. Whether an existing login of that name really
    belongs to the pair is for `Session.check_twin` to say.
    """
    app = principal.removesuffix(CLONE_SUFFIX)
    return Pair((app, app + CLONE_SUFFIX), owner=app)


class AlternatingUsers:
    """Two accounts take turns; an admin sets the one that is not in use.

    Args:
        pair: Given the principal that is current, the two logins and their owner.
    """

    def __init__(
        self,
        engine: PasswordEngine,
        generate: Generate,
        pair: Callable[[str], Pair],
        admin: Admin,
    ) -> None:
        self._engine = engine
        self._generate = generate
        self._pair = pair
        self._admin = _AdminAccount(engine, admin)

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`. Asks the target, so that a refusal comes before any write."""
        pair = self._pair(current.principal)
        following = replace(
            current, principal=pair.other(current.principal), secret=self._generate()
        )
        self._engine.endpoint(following)
        with self._admin.login(current) as session:
            self._check_twin(session, pair, current, kept)
        return following

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. The admin's authority makes it repeatable without asking first."""
        now = current.credential
        pair = self._pair(now.principal)
        twin = pair.other(now.principal)
        with self._admin.login(now) as session:
            self._check_twin(session, pair, now, kept)
            # Whose turn it is follows from current as it is now, not as it was when pending was
            # made: a late finish of another rotation may have made pending's user the live one.
            secret = self._checked(pending(), twin, now).credential.secret
            _twin(session).set_twin(twin, secret, like=now.principal, owner=pair.owner)

    def _check_twin(
        self, session: Session, pair: Pair, current: Credential, kept: Iterable[Version]
    ) -> None:
        twin = pair.other(current.principal)

        def is_ours() -> bool:
            return pair.is_declared or any(self._is_login_of(twin, current, v) for v in kept)

        _twin(session).check_twin(twin, like=current.principal, owner=pair.owner, is_ours=is_ours)

    def _is_login_of(self, twin: str, current: Credential, version: Version) -> bool:
        """Tell whether *version* shows that a rotation of this secret has used *twin*."""
        if version.credential.principal != twin:
            return False
        try:
            return self._engine.endpoint(version.credential) == self._engine.endpoint(current)
        except Misconfigured:
            return False

    def _checked(self, pending: Version, twin: str, current: Credential) -> Version:
        following = pending.credential
        ours, theirs = self._engine.endpoint(current), self._engine.endpoint(following)
        if following.principal != twin or ours != theirs:
            raise _elsewhere(pending)
        return pending

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`. A login that does not act as the owner cannot do current's work."""
        owner = self._pair(credential.principal).owner
        with self._engine.login(credential) as session:
            return session is not None and _twin(session).acts_for(owner)

    def retire(self, current: Pending) -> None:
        """See `Retiring.retire`. The other login gets a secret that nobody is told.

        Not while it has a session. Until its next turn: then the rotation sets it, as ever, by the
        admin's authority.
        """
        version = current()
        now = version.credential
        if not self.accepts(now):
            raise _current_refused(version)
        pair = self._pair(now.principal)
        with self._admin.login(now) as session:
            self._check_twin(session, pair, now, ())
            twin = pair.other(now.principal)
            _require_unused(twin, session)
            if current().rotation_id != version.rotation_id:
                raise _superseded(version)
            _twin(session).set_twin(twin, self._generate(), like=now.principal, owner=pair.owner)

    def is_asked(self) -> bool:
        """See `Asked`."""
        return True


class Generated:
    """No target: the next value is made from the one before, and is all there is to a rotation.

    Whoever verifies reads the value and finds there what it still needs of the one before. It is an
    `Untold` target: what a crashed rotation left pending is known to nobody, and is not adopted.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def create(self, current: Credential, kept: Iterable[Version]) -> Credential:
        """See `Target.create`."""
        del kept
        return replace(current, secret=self._kind.following(current.secret))

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Changes nothing; refuses what would drop a value still in use."""
        del kept
        following = pending()
        if not self._kind.follows(following.credential.secret, current.credential.secret):
            raise Drifted(
                f"pending version {following.rotation_id} was not made from {current.rotation_id},"
                " which is current",
                remedy="Cancel this rotation, and rotate again.",
            )

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`. There is nobody to refuse it but we: is it well formed?"""
        return self._kind.is_whole(credential.secret)

    def is_untold(self) -> bool:
        """See `Untold`."""
        return True


class _OwnAccount:
    """The authority of a secret's own account: with current, else pending, else what is kept.

    Args:
        failed_logins: How many versions may be refused; None is all of them.
    """

    def __init__(self, engine: PasswordEngine, failed_logins: int | None = None) -> None:
        self._engine = engine
        self._failed_logins = failed_logins

    @contextmanager
    def session(
        self, pending: Pending, current: Version, kept: Iterable[Version]
    ) -> Iterator[Session]:
        """Open a session.

        Raises:
            LockedOut: No version known to the store logs in.
        """
        tried: list[Version] = []
        for version in self._distinct(pending, current, kept):
            if len(tried) == self._failed_logins:
                raise _limit_reached(current.credential.principal, tried)
            tried.append(version)
            with self._engine.login(version.credential) as session:
                if session is not None:
                    yield session
                    return
        raise _locked_out(current.credential.principal, tried)

    def checked(self, pending: Version, current: Version) -> Version:
        """Return *pending*; refuse it if it is for another account or place than *current*."""
        if self._place(pending.credential) != self._place(current.credential):
            raise _elsewhere(pending)
        return pending

    def _distinct(
        self, pending: Pending, current: Version, kept: Iterable[Version]
    ) -> Iterator[Version]:
        """Yield who may authorise the change, each secret once: a retry may lock the account.

        Current first: while it logs in, pending cannot have been set.
        """
        place = self._place(current.credential)
        seen: list[Sensitive] = []
        for version in _chain(current, pending, kept):
            if version.credential.secret not in seen and self._is_at(version, place):
                seen.append(version.credential.secret)
                yield version

    def _is_at(self, version: Version, place: tuple[str, str]) -> bool:
        try:
            return self._place(version.credential) == place
        except Misconfigured:
            return False  # an old version that never was a usable login

    def _place(self, credential: Credential) -> tuple[str, str]:
        return self._engine.endpoint(credential), credential.principal


class _AdminAccount:
    """The authority of an admin, at the place where the secret's account lives."""

    def __init__(self, engine: PasswordEngine, admin: Admin) -> None:
        self._engine = engine
        self._admin = admin

    @contextmanager
    def login(self, current: Credential) -> Iterator[Session]:
        """Open a session.

        Raises:
            LockedOut: The target refuses the admin.
            Drifted: The admin is for another place than *current*.
        """
        with self._engine.login(self._at(current)) as session:
            if session is None:
                raise _admin_refused()
            yield session

    def _at(self, current: Credential) -> Credential:
        """Return the admin's login at the place where *current* lives.

        An admin secret without a host (as the service makes them for managed databases) follows
        the secret's host; one with a host must name the same.
        """
        admin = self._admin()
        authority = replace(admin, fields={**current.fields, **admin.fields})
        ours, theirs = self._engine.endpoint(current), self._engine.endpoint(authority)
        if _host(ours) != _host(theirs):
            raise Drifted(
                f"the secret is for {_host(ours)}, its admin secret for {_host(theirs)}",
                remedy="Make both secrets name the same host and port.",
            )
        return authority


def _twin(session: Session) -> TwinSession:
    if isinstance(session, TwinSession):
        return session
    raise Unsupported(
        "this target has no users that take turns",
        remedy="Use the strategy single-user, and remove `masterarn` from the secret.",
    )


def _dual(session: Session) -> DualSession:
    if isinstance(session, DualSession):
        return session
    raise Unsupported(
        "this target takes one password per user",
        remedy="Use the strategy alternating-users or single-user.",
    )


def _require_unused(principal: str, session: Session) -> None:
    """Refuse if the target shows open sessions of *principal*.

    Raises:
        Busy: So many.
    """
    count = session.sessions_of(principal) if isinstance(session, SeenSession) else None
    if count:
        raise _still_used(f"{_sessions(count)} of {principal!r}, which had the turn before")


def _require_unused_before(current: Version, session: Session) -> None:
    """Refuse if the target shows sessions that were opened with another password than current's.

    Raises:
        Busy: So many.
    """
    principal, count = current.credential.principal, None
    if isinstance(session, DatedSession):
        count = session.sessions_before(principal, current.stored_at)
    if count:
        raise _still_used(
            f"{_sessions(count)} of {principal!r}, older than version {current.rotation_id},"
            " which is current"
        )


def _sessions(count: int) -> str:
    return "1 open session" if count == 1 else f"{count} open sessions"


def _still_used(fact: str) -> Busy:
    return Busy(
        fact,
        remedy="Restart what holds them, with the secret as it is now; or end them at the target.",
    )


def _host(endpoint: str) -> str:
    """Return an endpoint without its database; the path of a socket has slashes, too."""
    found = re.match(r".*?:\d+(?=/|$)", endpoint)
    return found[0] if found else endpoint


def _chain(current: Version, pending: Pending, kept: Iterable[Version]) -> Iterator[Version]:
    yield current
    yield pending()
    yield from kept


def _elsewhere(pending: Version) -> Drifted:
    return Drifted(
        f"version {pending.rotation_id} is for another host, database or user than current allows",
        remedy="Cancel this rotation and start a new one; change hosts only between rotations.",
    )


def _admin_refused() -> LockedOut:
    return LockedOut(
        "the target refuses the admin credential",
        remedy="Put the admin's real password into the admin secret, then rotate again.",
    )


def _current_refused(current: Version) -> NotYetAccepted:
    return NotYetAccepted(
        f"the target refuses the current version {current.rotation_id}, so none is dropped",
        remedy="Rotate the secret; the old password is dropped when current works.",
    )


def _superseded(current: Version) -> Busy:
    return Busy(
        f"version {current.rotation_id} is current no more",
        remedy="Nothing: it is looked at again.",
    )


def _not_to_be_asked(current: Credential) -> Denied:
    return Denied(
        f"the target refuses {current.principal!r} with what is current, so it cannot be asked",
        remedy="Rotate the secret: any version kept that still works is found.",
    )


def _locked_out(principal: str, tried: Sequence[Version]) -> LockedOut:
    return LockedOut(
        f"the target refuses {principal!r} with every version the store keeps: {_ids(tried)}",
        remedy="Set the user's password to the current version's by hand, then rotate again.",
    )


def _limit_reached(principal: str, tried: Sequence[Version]) -> LockedOut:
    return LockedOut(
        f"the target refuses {principal!r} with {_ids(tried)}; `failed_logins` allows no more",
        remedy="Set the user's password to the current version's by hand, then rotate again.",
    )


def _ids(versions: Sequence[Version]) -> str:
    return ", ".join(version.rotation_id for version in versions)
