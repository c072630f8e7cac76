"""Who gets the new password, and on whose authority. Knows no database.

SingleUser         one account changes its own password; one slot, so there is a short time
                   in which readers of current are refused
AlternatingUsers   two accounts take turns, an admin sets them; current is always accepted
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from keyturn.errors import Denied, Drifted, LockedOut, Misconfigured
from keyturn.model import Credential, Sensitive, Version
from keyturn.ports import Generate, PasswordEngine, Pending, Session


class SingleUser:
    """One account changes its own password.

    Between set and finish, readers of current hold a password that the target refuses. Choose it
    where consumers reconnect with a fresh read, or where there is no admin credential.
    """

    def __init__(self, engine: PasswordEngine, generate: Generate) -> None:
        self._engine = engine
        self._generate = generate

    def create(self, current: Credential) -> Credential:
        """See `Target.create`."""
        self._engine.endpoint(current)
        return replace(current, secret=self._generate())

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. Makes no failing login when current still works."""
        place = self._place(current.credential)
        tried: list[Version] = []
        for version in self._distinct(pending, current, kept, place):
            tried.append(version)
            with self._engine.login(version.credential) as session:
                if session is not None:
                    self._set_unless_done(session, version, self._checked(pending(), place))
                    return
        raise _locked_out(current.credential.principal, tried)

    def _set_unless_done(self, session: Session, authority: Version, pending: Version) -> None:
        if authority.rotation_id != pending.rotation_id:
            session.set_password(pending.credential.principal, pending.credential.secret)

    def _checked(self, pending: Version, place: tuple[str, str]) -> Version:
        if self._place(pending.credential) != place:
            raise _elsewhere(pending)
        return pending

    def accepts(self, credential: Credential) -> bool:
        """See `Target.accepts`."""
        with self._engine.login(credential) as session:
            return session is not None

    def _distinct(
        self, pending: Pending, current: Version, kept: Iterable[Version], place: tuple[str, str]
    ) -> Iterator[Version]:
        """Yield who may authorise the change, each secret once: a retry may lock the account.

        Current first: while it logs in, pending cannot have been set.
        """
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


@dataclass(frozen=True, slots=True)
class Pair:
    """Two logins that take turns, and the role whose privileges both act with.

    Attributes:
        users: The two login names.
        owner: Owns what either makes. It may be one of the two, as after a migration.
    """

    users: tuple[str, str]
    owner: str

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
        admin: Reads the admin's credential; called only where it is needed.
    """

    def __init__(
        self,
        engine: PasswordEngine,
        generate: Generate,
        pair: Callable[[str], Pair],
        admin: Callable[[], Credential],
    ) -> None:
        self._engine = engine
        self._generate = generate
        self._pair = pair
        self._admin = admin

    def create(self, current: Credential) -> Credential:
        """See `Target.create`. Asks the target, so that a refusal comes before any write."""
        pair = self._pair(current.principal)
        following = replace(
            current, principal=pair.other(current.principal), secret=self._generate()
        )
        self._engine.endpoint(following)
        with self._engine.login(self._authority(current)) as session:
            if session is None:
                raise _admin_refused()
            session.check_twin(following.principal, like=current.principal, owner=pair.owner)
        return following

    def set(self, pending: Pending, current: Version, kept: Iterable[Version]) -> None:
        """See `Target.set`. The admin's authority makes it repeatable without asking first."""
        del kept  # The admin can always set again: no old password is needed.
        now = current.credential
        pair = self._pair(now.principal)
        twin = pair.other(now.principal)
        with self._engine.login(self._authority(now)) as session:
            if session is None:
                raise _admin_refused()
            session.check_twin(twin, like=now.principal, owner=pair.owner)
            # Whose turn it is follows from current as it is now, not as it was when pending was
            # made: a late finish of another rotation may have made pending's user the live one.
            secret = self._checked(pending(), twin, now).credential.secret
            session.set_twin(twin, secret, like=now.principal, owner=pair.owner)

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
            return session is not None and session.acts_as == owner

    def _authority(self, current: Credential) -> Credential:
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


def _host(endpoint: str) -> str:
    return endpoint.partition("/")[0]


def _chain(current: Version, pending: Pending, kept: Iterable[Version]) -> Iterator[Version]:
    yield current
    yield pending()
    yield from kept


def _elsewhere(pending: Version) -> Drifted:
    return Drifted(
        f"version {pending.rotation_id} is for another host, database or user than current allows",
        remedy="Cancel this rotation and start a new one; change hosts only between rotations.",
    )


def _admin_refused() -> Denied:
    return Denied(
        "the target refuses the admin credential",
        remedy="Put the admin's real password into the admin secret, then rotate again.",
    )


def _locked_out(principal: str, tried: Sequence[Version]) -> LockedOut:
    ids = ", ".join(version.rotation_id for version in tried)
    return LockedOut(
        f"the target refuses {principal!r} with every version the store keeps: {ids}",
        remedy="Set the user's password to the current version's by hand, then rotate again.",
    )
