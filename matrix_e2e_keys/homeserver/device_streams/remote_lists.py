"""What other servers tell about the devices and identities of their users: a copy for each user, and whom to ask.

Specification: server-server API, "Device Management".

Facts:

* A server speaks for its own users, and for nobody else. Of users with whom no room is shared nothing is kept, since
  nobody tells when they change.
* "subsequent updates to the cache should be applied by consuming ``m.device_list_update`` EDUs". One that does not join
  what is known makes the copy stale; all devices are asked for, and the answer is a new beginning. So does one with
  malformed keys: what is wrong with them costs a request, and no more.
* What is told while that request is on its way may be in the answer or not: then it is asked once more.
* An identity counts once it is verified. Nothing numbers what is told of it: where it takes the place of another, all
  devices are asked for as well, and the answer decides.
* A copy that is stale is good enough if its server cannot be reached, and not otherwise.

Nothing is sent here. :meth:`RemoteDeviceLists.next_resync` says what to ask. The clock is the caller's.
One process must own the lists: what another is told would be missing here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import check_now, granted
from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, SigningKeyUpdate
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.members import user_id as checked_user_id
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.homeserver.device_streams.cached_user import MAX_DEVICES, CachedUser, judged_keys
from matrix_e2e_keys.homeserver.device_streams.changed_rows import ChangedRows
from matrix_e2e_keys.homeserver.device_streams.remote_values import EduOutcome, EduReason, EduVerdict, Resync
from matrix_e2e_keys.homeserver.device_streams.resync_queue import ResyncQueue
from matrix_e2e_keys.homeserver.effects import IdentityChanged
from matrix_e2e_keys.homeserver.remote_identity import verified_identity
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.identifiers import home_of, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier
from matrix_e2e_keys.stored import Stored

__all__ = ["EduOutcome", "EduReason", "EduVerdict", "RemoteDeviceLists", "Resync"]

_VERSION: Final = 1
_MAX_USERS_SEEN: Final = 10_000
_OF_THE_SERVER: Final = frozenset({401, 403, 408, 429})


@define(kw_only=True)
class RemoteDeviceLists:
    """The devices of users of other servers. A state machine without input or output.

    Stored as a whole with :meth:`to_json`, or in rows, one for each user (:meth:`user_to_json`). :meth:`take_changed`
    says which changed. For :meth:`from_json` put them together::

        {"version": 1, "users": {user_id: row, ...}}

    Attributes:
        resyncs_per_server: how many requests may be on their way to one server at once.
        verifier: who checks the signatures of self-signing keys.
    """

    resyncs_per_server: int = 4
    verifier: Verifier = field(default=LIBSODIUM, repr=False)
    _users: dict[str, CachedUser] = field(factory=dict, init=False, repr=False)
    _queue: ResyncQueue = field(init=False, repr=False)
    _recent: OrderedDict[str, None] = field(factory=OrderedDict, init=False, repr=False)
    """Users of whom numbers are remembered, the most recent last."""
    _changed: ChangedRows = field(factory=ChangedRows, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if type(self.resyncs_per_server) is not int or self.resyncs_per_server < 1:
            raise LocalProtocolError(Reason.INVALID_VALUE, "a positive integer is needed", path="/resyncs_per_server")
        check_verifier(self.verifier)
        self._queue = ResyncQueue(self.resyncs_per_server)

    # ----------------------------------------------------------------------------------------------------------
    # Whose devices are kept
    # ----------------------------------------------------------------------------------------------------------

    @property
    def tracked(self) -> frozenset[str]:
        """Everybody whose devices are kept."""
        return frozenset(self._users)

    @property
    def stale(self) -> frozenset[str]:
        """The tracked users whose copy may be out of date, or is not there yet."""
        return frozenset(user_id for user_id, user in self._users.items() if user.is_stale)

    def track(self, user_id: str, *, now: int) -> None:
        """Begin to keep the devices of a user, because a room is shared. All of them will be asked for in turn.

        Raises:
            LocalProtocolError: it is no user id, or an argument has the wrong type.
        """
        check_now(now)
        if _checked(user_id) not in self._users:
            self._users[user_id] = CachedUser(UserKeys(user_id=user_id))
            self._changed.added(user_id)
            self._queue.add(user_id)

    def untrack(self, user_id: str, *, now: int) -> None:
        """Forget the devices of a user, because no room is shared any more.

        Raises:
            LocalProtocolError: it is no user id, or an argument has the wrong type.
        """
        check_now(now)
        if self._users.pop(_checked(user_id), None) is not None:
            self._recent.pop(user_id, None)
            self._queue.discard(user_id)
            self._changed.removed(user_id)

    def suspect(self, user_id: str, *, now: int) -> bool:
        """Note that the devices of a user may have changed: a message came from a device nobody knows, for example.

        Returns:
            Whether the user is tracked. Then all devices will be asked for.

        Raises:
            LocalProtocolError: it is no user id, or an argument has the wrong type.
        """
        check_now(now)
        user = self._users.get(_checked(user_id))
        if user is None:
            return False
        self._distrust(user)
        return True

    def cached(self, user_id: str) -> UserKeys | None:
        """Return the copy of a user's devices and identity, ``None`` if there is none or it may be out of date.

        Raises:
            LocalProtocolError: it is no user id.
        """
        user = self._users.get(_checked(user_id))
        return None if user is None or user.is_stale else user.keys

    def cached_stale(self, user_id: str) -> UserKeys | None:
        """Return the copy even if it may be out of date: for when the user's server cannot be reached.

        Raises:
            LocalProtocolError: it is no user id.
        """
        user = self._users.get(_checked(user_id))
        return None if user is None or user.extremity is None else user.keys

    # ----------------------------------------------------------------------------------------------------------
    # What is told
    # ----------------------------------------------------------------------------------------------------------

    def receive_edu(self, edu: DeviceListUpdate | SigningKeyUpdate, *, origin: str, now: int) -> EduOutcome:
        """Take what a server tells about one of its users.

        Args:
            edu: what it tells.
            origin: the server, as the signature of its request says.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(edu) not in (DeviceListUpdate, SigningKeyUpdate):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a DeviceListUpdate or SigningKeyUpdate", path="/edu")
        if type(origin) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the origin is a string", path="/origin")
        check_now(now)
        if home_of(edu.user_id) != origin:
            return EduOutcome(verdict=EduVerdict.IGNORED, reason=EduReason.NOT_OF_ORIGIN)
        user = self._users.get(edu.user_id)
        if user is None:
            return EduOutcome(verdict=EduVerdict.IGNORED, reason=EduReason.NOT_TRACKED)
        return (
            self._receive_device(user, edu, now)
            if isinstance(edu, DeviceListUpdate)
            else self._receive_identity(user, edu)
        )

    def _receive_device(self, user: CachedUser, edu: DeviceListUpdate, now: int) -> EduOutcome:
        keys = None if edu.deleted else judged_keys(edu.user_id, edu.device_id, edu.keys, "keys")
        reason = user.objection(edu, now)
        if reason is EduReason.ALREADY_SEEN:
            return EduOutcome(verdict=EduVerdict.IGNORED, reason=reason)
        self._see(user, edu.stream_id, now)
        if isinstance(keys, Rejection):
            return self._needs_resync(user, reason or EduReason.MALFORMED, refused=(keys,))
        if reason is None and not edu.deleted and len({*user.keys.devices, edu.device_id}) > MAX_DEVICES:
            reason = EduReason.TOO_MANY_DEVICES
        if reason is not None:
            return self._needs_resync(user, reason)
        self._changed.altered(edu.user_id)
        return EduOutcome(verdict=EduVerdict.APPLIED, changed=user.put_device(edu, keys))

    def _receive_identity(self, user: CachedUser, edu: SigningKeyUpdate) -> EduOutcome:
        if user.is_stale:
            return self._needs_resync(user, EduReason.RESYNC_DUE)
        known = user.keys
        told = verified_identity(
            edu.user_id,
            master_key=edu.master_key,
            self_signing_key=edu.self_signing_key,
            known=known,
            verifier=self.verifier,
        )
        if told.refused:
            return self._needs_resync(user, EduReason.MALFORMED, refused=told.refused)
        self._changed.altered(edu.user_id)
        if not user.put_identity(told.master_key, told.self_signing_key):
            return EduOutcome(verdict=EduVerdict.IGNORED, reason=EduReason.NOTHING_NEW)
        changed = IdentityChanged(user_id=edu.user_id)
        if known.master_key is None:
            return EduOutcome(verdict=EduVerdict.APPLIED, changed=(changed,))
        return self._needs_resync(user, EduReason.UNCONFIRMED, changed=(changed,))

    def _see(self, user: CachedUser, stream_id: int, now: int) -> None:
        user_id = user.keys.user_id
        user.see(stream_id, now)
        self._recent[user_id] = None
        self._recent.move_to_end(user_id)
        if len(self._recent) > _MAX_USERS_SEEN:
            forgotten, _ = self._recent.popitem(last=False)
            self._users[forgotten].forget_seen()

    def _distrust(self, user: CachedUser) -> None:
        user_id = user.keys.user_id
        if not user.is_stale:
            self._changed.altered(user_id)
        user.is_stale = True
        user.is_overtaken = self._queue.is_in_flight(user_id)
        self._queue.add(user_id)

    def _needs_resync(
        self,
        user: CachedUser,
        reason: EduReason,
        *,
        changed: tuple[IdentityChanged, ...] = (),
        refused: tuple[Rejection, ...] = (),
    ) -> EduOutcome:
        self._distrust(user)
        return EduOutcome(verdict=EduVerdict.NEEDS_RESYNC, reason=reason, changed=changed, refused=refused)

    # ----------------------------------------------------------------------------------------------------------
    # All devices
    # ----------------------------------------------------------------------------------------------------------

    def next_resync(self, *, now: int) -> Resync | None:
        """Return what to ask next, ``None`` if there is nothing to ask at this time.

        Several requests may be on their way at once. Store the lists before a request is sent, so that after a restart
        it is known that the copy is stale.

        Raises:
            LocalProtocolError: the time is no integer.
        """
        check_now(now)
        return self._queue.next(now)

    def next_wake_at(self, *, now: int) -> int | None:
        """Return when there is something to ask, ``now`` at the earliest; ``None`` if that depends on others.

        Raises:
            LocalProtocolError: the time is no integer.
        """
        check_now(now)
        return self._queue.next_wake_at(now)

    def receive_devices(self, resync: Resync, response: UserDevicesResponse, *, now: int) -> EduOutcome:
        """Take the answer to a request.

        Args:
            resync: the request.
            response: what the server has answered.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(response) is not UserDevicesResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a UserDevicesResponse is needed", path="/response")
        check_now(now)
        if not self._queue.is_awaited(resync):
            return EduOutcome(verdict=EduVerdict.IGNORED, reason=EduReason.NOT_AWAITED)
        user = self._users[resync.user_id]
        refused = response.malformed
        if response.user_id != resync.user_id:
            detail = f"the answer is about {quoted(response.user_id)}"
            refused = (Rejection(path="/user_id", reason=Reason.USER_ID_MISMATCH, detail=detail),)
        if refused or len(response.devices) > MAX_DEVICES:
            self._queue.useless(resync, now)
            user.is_overtaken = False
            reason = EduReason.MALFORMED if refused else EduReason.TOO_MANY_DEVICES
            return EduOutcome(verdict=EduVerdict.NEEDS_RESYNC, reason=reason, refused=refused)
        keys, refused = user.judged_answer(response, self.verifier)
        self._queue.answered(resync)
        self._see(user, response.stream_id, now)
        changed = user.put_answer(keys, response.stream_id)
        self._changed.altered(resync.user_id)
        if not user.is_stale:
            return EduOutcome(verdict=EduVerdict.APPLIED, changed=changed, refused=refused)
        self._queue.add(resync.user_id)
        return EduOutcome(verdict=EduVerdict.NEEDS_RESYNC, reason=EduReason.OVERTAKEN, changed=changed, refused=refused)

    def receive_failure(self, resync: Resync, *, now: int, error: E2EKeysError | None = None) -> None:
        """Note that a request got no answer, or none that could be read. It will be sent again, later.

        Args:
            resync: the request.
            now: the caller's time in milliseconds.
            error: what the answer was, if there was one. What concerns this user only delays no other user.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if error is not None and not isinstance(error, E2EKeysError):
            raise LocalProtocolError(Reason.WRONG_TYPE, "an error is one of this library", path="/error")
        check_now(now)
        if not self._queue.is_awaited(resync):
            return
        self._users[resync.user_id].is_overtaken = False
        if isinstance(error, RemoteProtocolError) or (
            isinstance(error, MatrixError) and error.status < 500 and error.status not in _OF_THE_SERVER
        ):
            self._queue.useless(resync, now)
        else:
            wish = granted(error.retry_after_ms) if isinstance(error, MatrixError) else 0
            self._queue.failed(resync, now, wish)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. Requests on their way and delays do not."""
        return {"version": _VERSION, "users": {user_id: user.to_json() for user_id, user in self._users.items()}}

    def user_to_json(self, user_id: str) -> JsonObject | None:
        """Return what :meth:`to_json` has about one user, ``None`` if the user is not tracked.

        Raises:
            LocalProtocolError: it is no user id.
        """
        user = self._users.get(_checked(user_id))
        return None if user is None else user.to_json()

    def take_changed(self) -> frozenset[str]:
        """Return the users whose rows changed since the last call, or since the lists were made or restored.

        Write the row of each, or delete it if :meth:`user_to_json` returns ``None``. They are named once: if they could
        not be stored, keep them for the next time. This is not part of what is stored.
        """
        return self._changed.take()

    @classmethod
    def from_json(
        cls, obj: object, *, resyncs_per_server: int = 4, verifier: Verifier = LIBSODIUM
    ) -> RemoteDeviceLists:
        """Restore the lists.

        Args:
            obj: what :meth:`to_json` returned, or the rows put together.
            resyncs_per_server: as in the class.
            verifier: as in the class.

        Raises:
            LocalProtocolError: it is something else.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        lists = cls(resyncs_per_server=resyncs_per_server, verifier=verifier)
        for user_id, copy in stored.objects("users"):
            with stored.reading("users", user_id):
                parse_user_id(user_id)
            user = CachedUser.from_stored(copy, user_id, verifier)
            lists._users[user_id] = user
            if user.is_stale:
                lists._queue.add(user_id)
        return lists


def _checked(user_id: object) -> str:
    with raised_as(LocalProtocolError):
        return checked_user_id(user_id, "user_id")
