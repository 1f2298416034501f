"""Everybody's keys, as far as they are known, and one's own identity, which decides about everybody else's.

Specification: client-server API, "Cross-signing".

Facts:

* One's own identity counts if its master key is the one that was confirmed: by comparing it with another device, by
  having the private key, or by having made it. The server's word is not enough.
* Whenever one's own identity changes, everybody's is looked at again: who was verified by it may not be any more.
* What one signs oneself counts at once, whatever the server serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from attrs import define, evolve, field

from matrix_e2e_keys.client.queries.query import QueryResult, check_query
from matrix_e2e_keys.client.users.changes import KeyChange, Seen, learn, review_identities, state_changes, vouched_for
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted, raised_as
from matrix_e2e_keys.identifiers import check_user_ids, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["KnownUsers"]

_VERSION: Final = 1


@define(kw_only=True)
class KnownUsers:
    """What is known of users. A state machine without input or output.

    Attributes:
        own_user_id: oneself.
        verifier: who checks signatures.
    """

    own_user_id: str
    verifier: Verifier = field(default=LIBSODIUM, repr=False)
    _users: dict[str, KnownUser] = field(factory=dict, init=False)
    _own_master_key: Ed25519PublicKey | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError, "own_user_id"):
            parse_user_id(self.own_user_id)
        check_verifier(self.verifier)

    @property
    def users(self) -> Mapping[str, KnownUser]:
        """User id to what is known of the user."""
        return MappingProxyType(self._users)

    @property
    def own(self) -> OwnIdentity | None:
        """One's own identity; ``None`` if none is known, or another one than the one that was confirmed."""
        user = self._users.get(self.own_user_id)
        identity = None if user is None else user.identity
        key = self._own_master_key
        if identity is None or key is None or key != identity.master_public_key:
            return None
        return identity.confirm_as_own(master_key=key)

    @property
    def own_master_key(self) -> Ed25519PublicKey | None:
        """The master key that was confirmed as one's own, whatever the server serves."""
        return self._own_master_key

    # ----------------------------------------------------------------------------------------------------------
    # What a server says
    # ----------------------------------------------------------------------------------------------------------

    def judge(
        self, request: KeysQueryRequest, response: KeysQueryResponse, *, own_device: DeviceKeys | None = None
    ) -> QueryResult:
        """Judge an answer against what is known. Nothing is learned from it before :meth:`take`.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        return check_query(
            request,
            response,
            own_user_id=self.own_user_id,
            own=self.own,
            own_device=own_device,
            known=self._users,
            verifier=self.verifier,
        )

    def take(self, result: QueryResult, user_ids: Iterable[str]) -> tuple[KeyChange, ...]:
        """Learn what an answer says about some of those who were asked about.

        Args:
            result: what :meth:`judge` made of the answer, with nothing learned since.
            user_ids: about whom the answer is news: what :meth:`DeviceListTracker.receive_result` returned.

        Returns:
            What has changed about them, and about whomever one makes something else of now.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(result) is not QueryResult:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a QueryResult is needed", path="/result")
        news = frozenset(check_user_ids(user_ids))
        own = self.own
        for user_id, user in result.known.items():
            if user_id in news:
                before = self._users.get(user_id)
                # What the user decided meanwhile stays decided.
                self._users[user_id] = user if before is None else evolve(user, local_trust=before.local_trust)
        changes = [change for change in result.changes if change.user_id in news]
        if self.own_user_id in result.users and self.own_user_id not in news:
            # Everybody in the answer was judged by one's own identity as the answer shows it, which is no news.
            return (*changes, *self._review(self.own))
        return (*changes, *self._review_unless(own))

    def _review_unless(self, own: OwnIdentity | None) -> list[KeyChange]:
        """Look at everybody again, unless one's own identity still is ``own``."""
        now = self.own
        return [] if now == own else self._review(now)

    def _review(self, own: OwnIdentity | None) -> list[KeyChange]:
        changed, changes = review_identities(self._users, own, self.verifier)
        self._users.update(changed)
        return changes

    # ----------------------------------------------------------------------------------------------------------
    # What the user says
    # ----------------------------------------------------------------------------------------------------------

    def confirm_own_identity(self, master_key: Ed25519PublicKey) -> tuple[KeyChange, ...]:
        """Note that the identity that is served as one's own is one's own.

        Args:
            master_key: its master key, as another device of one's own shows it, or as its private half says.

        Raises:
            LocalProtocolError: it is not the master key that is served, or none is.
        """
        user, _ = self._with_identity(self.own_user_id, master_key)
        self._own_master_key = master_key
        self._users[user.user_id] = user.with_pin(user.pin.accept(master_key, vouched_for=True))
        return (*state_changes(user, self._users[user.user_id]), *self._review(self.own))

    def install_own_identity(self, identity: UserIdentity) -> tuple[KeyChange, ...]:
        """Note that one has made this identity oneself, and uploaded it.

        Raises:
            LocalProtocolError: it is not an identity of one's own.
        """
        if type(identity) is not UserIdentity:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a UserIdentity is needed", path="/identity")
        if identity.user_id != self.own_user_id:
            raise LocalProtocolError(Reason.NOT_OWN_USER, "an identity of one's own is needed", path="/identity")
        own = self.own
        seen = Seen(
            devices={},
            present=frozenset(),
            changed={},
            is_answered=False,
            asked=(),
            identity=identity,
            has_no_identity=False,
            vouched_for=True,
            is_altered=False,
            collision=None,
        )
        before = self._users.get(self.own_user_id) or KnownUser(user_id=self.own_user_id)
        learned, changes = learn(before, seen, self.verifier)
        after = learned.with_pin(learned.pin.accept(identity.master_public_key, vouched_for=True))
        self._users[self.own_user_id] = after
        self._own_master_key = identity.master_public_key
        return (*changes, *state_changes(learned, after), *self._review_unless(own))

    def accept_identity(self, user_id: str, master_key: Ed25519PublicKey) -> tuple[KeyChange, ...]:
        """Note that the user accepts another user's identity as it is now.

        Args:
            user_id: whose.
            master_key: its master key, as the user was shown it.

        Raises:
            LocalProtocolError: it has changed since, or there is none.
        """
        user, identity = self._with_identity(user_id, master_key)
        is_vouched_for = user_id in vouched_for([identity], self.own, self.verifier)
        self._users[user_id] = user.with_pin(user.pin.accept(master_key, vouched_for=is_vouched_for))
        return tuple(state_changes(user, self._users[user_id]))

    def set_trust(self, user_id: str, ed25519_key: Ed25519PublicKey, trust: LocalTrust) -> None:
        """Note what the user decided about the device that has this signing key.

        Raises:
            LocalProtocolError: nothing is known of that user, or an argument has the wrong type.
        """
        self._users[user_id] = self._known(user_id).with_trust(ed25519_key, trust)

    def forget_device(self, user_id: str, device_id: str) -> None:
        """Make room for a device that comes with another signing key; see :meth:`KnownUser.without_device`.

        Raises:
            LocalProtocolError: nothing is known of that user, or an argument has the wrong type.
        """
        self._users[user_id] = self._known(user_id).without_device(device_id)

    def add_signatures(self, key: DeviceKeys | CrossSigningKey) -> tuple[KeyChange, ...]:
        """Take over signatures that one has made oneself, over a device or a master key that is known.

        Raises:
            LocalProtocolError: what was signed is not what is known.
        """
        if type(key) is DeviceKeys:
            user = self._known(key.user_id)
            device = user.devices.get(key.device_id)
            if device is None or device.keys != key:
                raise LocalProtocolError(Reason.INVALID_VALUE, "this is not the device that is known", path="/key")
            merged = merge_signatures(device.keys, key).verify(identity=user.identity, verifier=self.verifier)
            self._users[key.user_id] = evolve(user, devices={**user.devices, key.device_id: merged})
            return ()
        if type(key) is not CrossSigningKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys or a CrossSigningKey are needed", path="/key")
        user = self._known(key.user_id)
        if user.identity is None or user.identity.master_key != key:
            raise LocalProtocolError(Reason.IDENTITY_CHANGED, "this is not the master key that is known", path="/key")
        signed = merge_signatures(user.identity.master_key, key).signed
        identity = user.identity.with_master_signatures(signed)
        self._users[key.user_id] = evolve(user, identity=identity)
        if key.user_id not in vouched_for([identity], self.own, self.verifier):
            return ()
        return self.accept_identity(key.user_id, identity.master_public_key)

    def _known(self, user_id: object) -> KnownUser:
        user = self._users.get(user_id) if type(user_id) is str else None
        if user is None:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"nothing is known of {quoted(user_id)}", path="/user_id")
        return user

    def _with_identity(self, user_id: object, master_key: object) -> tuple[KnownUser, UserIdentity]:
        """Return a user whose identity has this master key."""
        user = self._known(user_id)
        if type(master_key) is not Ed25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a master key is an Ed25519PublicKey", path="/master_key")
        if user.identity is None or user.identity.master_public_key != master_key:
            raise LocalProtocolError(
                Reason.IDENTITY_CHANGED, f"{user!r} has another master key than that, or none", path="/master_key"
            )
        return user, user.identity

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        return {
            "version": _VERSION,
            "own_user_id": self.own_user_id,
            "own_master_key": None if self._own_master_key is None else self._own_master_key.to_base64(),
            "users": {user_id: user.to_json() for user_id, user in self._users.items()},
        }

    @classmethod
    def from_json(cls, obj: object, *, verifier: Verifier = LIBSODIUM) -> KnownUsers:
        """Restore what is known. All signatures are checked again.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        return cls.restore(Stored(obj), verifier)

    @classmethod
    def restore(cls, stored: Stored, verifier: Verifier) -> KnownUsers:
        """Internal: :meth:`from_json` for what is part of something."""
        stored.require_version(_VERSION)
        own_user_id = stored.member("own_user_id", str)
        with stored.reading():
            restored = cls(own_user_id=own_user_id, verifier=verifier)
        text = stored.member("own_master_key", str, type(None))
        with stored.reading("own_master_key"):
            restored._own_master_key = None if text is None else Ed25519PublicKey.from_base64(text)
        for user_id, kept in stored.objects("users"):
            user = KnownUser.restore(kept, verifier)
            if user.user_id != user_id:
                with stored.reading("users", user_id):
                    detail = f"{user!r} stands under the name of another user"
                    raise LocalProtocolError(Reason.USER_ID_MISMATCH, detail)
            restored._users[user_id] = user
        restored._review(restored.own)  # who is verified follows from signatures, here as well
        return restored
