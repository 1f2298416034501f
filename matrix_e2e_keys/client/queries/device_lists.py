"""Whose device lists are kept, and which of them are out of date.

Specification: client-server API, "Tracking the device list for a user".

Facts:

* A user is tracked from the moment one shares an encrypted room with them until ``/sync`` says that they have ``left``.
  Of a tracked user one knows whether the list may have changed since it was asked for. Both survive a restart.
* A change that arrives while a query is in flight is newer than its answer: the answer is taken, and the user stays
  outdated. An answer to an older query never replaces the answer to a newer one, in whatever order they arrive.
* A server that cannot be reached costs its own users a delay, and nobody else anything.
* If the stream of ``/sync`` has a gap, because one started afresh, ``/keys/changes`` fills it. If that fails, everybody
  is outdated: asking too much is slow, asking too little is dangerous. So it is where a list of changes is malformed.

Nothing is sent here. :meth:`DeviceListTracker.next_query` says what to ask; the caller asks, has the answer judged by
:func:`~matrix_e2e_keys.check_query`, and hands over the result. The clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys.back_off import AFTER_THE_OTHERS_MS, BackOff, BatchSize, check_now, granted
from matrix_e2e_keys.client.queries.query import QueryResult, UserAnswer
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest
from matrix_e2e_keys.endpoints.client_server.sync import DeviceLists, SyncKeys
from matrix_e2e_keys.errors import LocalProtocolError, Reason, json_pointer, quoted, raised_as
from matrix_e2e_keys.identifiers import check_user_ids, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.stored import Stored

__all__ = ["DeviceListTracker", "OutgoingQuery"]

_VERSION: Final = 1
_MAX_USERS: Final = 250
_ALL_SERVERS: Final = ""
_DEVICE_LISTS: Final = "device_lists"
_UP_TO_DATE: Final = frozenset({UserAnswer.DEVICES, UserAnswer.NO_DEVICES})


@frozen(kw_only=True)
class OutgoingQuery:
    """A query to send.

    Attributes:
        query_id: to be named when the answer arrives. Not to be kept over a restart.
        request: what to ask.
    """

    query_id: int
    request: KeysQueryRequest


@define
class _User:
    """What is known of a tracked user. Moments are those of the tracker's own clock."""

    changed: int
    """When they last changed, as far as one has heard."""
    answered: int = -1
    """When the newest query was sent whose answer was taken."""
    again_at: int | None = None
    """From when on to ask once more, by the caller's time, unless an answer is taken before."""

    @property
    def is_outdated(self) -> bool:
        return self.changed >= self.answered


@define(kw_only=True)
class DeviceListTracker:
    """The device lists of others, and one's own. A state machine without input or output.

    Attributes:
        own_user_id: oneself. One's own devices are always tracked.
    """

    own_user_id: str
    _users: dict[str, _User] = field(factory=dict, init=False)
    _moment: int = field(default=0, init=False)
    _in_flight: dict[int, frozenset[str]] = field(factory=dict, init=False)
    _token: str | None = field(default=None, init=False)
    _gap: tuple[str, str] | None = field(default=None, init=False)
    _gap_found: int = field(default=0, init=False)
    _servers: BackOff = field(factory=BackOff, init=False, repr=False)
    _unanswered: BackOff = field(factory=BackOff, init=False, repr=False)
    _batch: BatchSize = field(factory=lambda: BatchSize(_MAX_USERS), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError, "own_user_id"):
            parse_user_id(self.own_user_id)
        self.track([self.own_user_id])

    # ----------------------------------------------------------------------------------------------------------
    # Who is tracked
    # ----------------------------------------------------------------------------------------------------------

    @property
    def tracked(self) -> frozenset[str]:
        """Everybody whose device list is kept."""
        return frozenset(self._users)

    @property
    def outdated(self) -> frozenset[str]:
        """The tracked users whose devices may have changed since they were asked for.

        Do not encrypt for them before they are asked for again, unless they cannot be asked. While :meth:`next_changes`
        has something to ask, anybody may be outdated.
        """
        return frozenset(user_id for user_id, user in self._users.items() if user.is_outdated)

    @property
    def to_be_asked(self) -> frozenset[str]:
        """The tracked users about whom there will be a query, since they are outdated or to be asked about again."""
        return frozenset(
            user_id for user_id, user in self._users.items() if user.is_outdated or user.again_at is not None
        )

    def track(self, user_ids: Iterable[str]) -> None:
        """Begin to track users, because one shares an encrypted room with them. Those tracked already stay as they are.

        Raises:
            LocalProtocolError: one of them is not a user id; then nothing is changed.
        """
        for user_id in check_user_ids(user_ids):
            if user_id not in self._users:
                # What was asked before says nothing: who knows what has changed in between.
                self._users[user_id] = _User(changed=self._now(), answered=self._moment - 1)

    def untrack(self, user_ids: Iterable[str]) -> None:
        """Stop tracking users, because one shares no encrypted room with them any more. One's own user stays.

        What is stored of their devices is of no use from now on, and should be forgotten but for pins and trust.

        Raises:
            LocalProtocolError: one of them is not a user id; then nothing is changed.
        """
        for user_id in check_user_ids(user_ids):
            if user_id != self.own_user_id:
                self._users.pop(user_id, None)
                self._unanswered.succeeded(user_id)

    def mark_outdated(self, user_ids: Iterable[str]) -> None:
        """Note that the devices of users may have changed: a message came from a device nobody knows, for example.

        Users who are not tracked are not of interest.

        Raises:
            LocalProtocolError: one of them is not a user id; then nothing is changed.
        """
        for user_id in check_user_ids(user_ids):
            user = self._users.get(user_id)
            if user is not None:
                user.changed = self._now()
                self._unanswered.succeeded(user_id)

    def doubt(self, user_ids: Iterable[str]) -> None:
        """Note that users may have devices that are not known, since somebody says so who may be lying.

        They are outdated then, but servers that do not answer are given as much time as before.

        Raises:
            LocalProtocolError: one of them is not a user id; then nothing is changed.
        """
        for user_id in check_user_ids(user_ids):
            if user_id in self._users:
                self._users[user_id].changed = self._now()

    def supersede(self, user_ids: Iterable[str]) -> None:
        """Note that one knows better than any answer to a query that was sent before now, as after an upload.

        Raises:
            LocalProtocolError: one of them is not a user id; then nothing is changed.
        """
        for user_id in check_user_ids(user_ids):
            if user_id in self._users:
                self._users[user_id].answered = self._now()
                self._users[user_id].changed = self._now()

    def ask_again(self, user_ids: Iterable[str], at: int) -> None:
        """Ask about users once more from a time on, though nobody says that they have changed.

        Until then they are as up to date as they were. An answer about them that is taken before makes up for it; after
        a restart they are asked about at once. Users who are not tracked are not of interest.

        Args:
            user_ids: whom.
            at: the caller's time in milliseconds. It replaces one that was named before.

        Raises:
            LocalProtocolError: an argument has the wrong type; then nothing is changed.
        """
        at = check_now(at)
        for user_id in check_user_ids(user_ids):
            if user_id in self._users:
                self._users[user_id].again_at = at

    def mark_all_outdated(self) -> None:
        """Note that one may have missed any number of changes: a sliding sync that begins anew, for example."""
        self._gap = None
        self.mark_outdated(self._users)

    # ----------------------------------------------------------------------------------------------------------
    # What /sync says
    # ----------------------------------------------------------------------------------------------------------

    def receive_sync(self, keys: SyncKeys, *, since: str | None, next_batch: str) -> None:
        """Take over what one answer to ``/sync`` says.

        A sliding sync that begins anew says nothing of what one has missed: call :meth:`mark_all_outdated` as well.

        Args:
            keys: what that answer says about keys.
            since: the token with which ``/sync`` was asked, ``None`` for an initial one.
            next_batch: the token that the answer gave.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(keys) is not SyncKeys:
            raise LocalProtocolError(Reason.WRONG_TYPE, "SyncKeys are needed", path="/keys")
        for name, token in (("since", since), ("next_batch", next_batch)):
            if type(token) is not str and not (token is None and name == "since"):
                raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} must be a string", path=f"/{name}")
        if self._token is None:
            # Whatever was restored or tracked before the first answer may have changed before it.
            self.mark_all_outdated()
        elif self._token not in (since, next_batch):
            # Up to the end of this answer, since an initial one says nothing of changes.
            self._gap = (self._token if self._gap is None else self._gap[0], next_batch)
            self._gap_found = self._now()
        self._token = next_batch
        if any(rejection.path == f"/{_DEVICE_LISTS}" for rejection in keys.malformed):
            self.mark_all_outdated()
        if keys.device_lists is not None:
            self._receive_changed(keys.device_lists)
            self.untrack(frozenset(keys.device_lists.left).difference(keys.device_lists.changed))

    def _receive_changed(self, lists: DeviceLists | KeysChangesResponse) -> None:
        if any(rejection.path.startswith("/changed") for rejection in lists.malformed):
            self.mark_all_outdated()  # somebody has changed, and nobody can tell who
        self.mark_outdated(lists.changed)

    def next_changes(self) -> KeysChangesRequest | None:
        """Return what to ask in order to close a gap in the stream, ``None`` if there is none."""
        return None if self._gap is None else KeysChangesRequest(from_token=self._gap[0], to_token=self._gap[1])

    def receive_changes(self, request: KeysChangesRequest, response: KeysChangesResponse) -> None:
        """Take over the answer to :meth:`next_changes`.

        An answer to anything but what would be asked now closes nothing. What it names as changed counts all the same.
        Who has left counts unless ``/sync`` has named them since: they may be back.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(request) is not KeysChangesRequest or type(response) is not KeysChangesResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysChangesRequest and a KeysChangesResponse are needed")
        if request == self.next_changes():
            self._gap = None
            left = frozenset(response.left).difference(response.changed)
            self.untrack(user_id for user_id in left & self.tracked if self._users[user_id].changed < self._gap_found)
        self._receive_changed(response)

    def give_up_changes(self) -> None:
        """Note that the gap cannot be closed, since the server refused: everybody is outdated."""
        if self._gap is not None:
            self.mark_all_outdated()

    # ----------------------------------------------------------------------------------------------------------
    # Queries
    # ----------------------------------------------------------------------------------------------------------

    def next_query(self, now: int, *, max_users: int = _MAX_USERS) -> OutgoingQuery | None:
        """Return what to ask next, ``None`` if there is nothing to ask at this time.

        Users whose query is in flight are not asked about again before it is answered or has failed. To send several
        queries side by side, call this again.

        Args:
            now: the caller's time in milliseconds.
            max_users: of how many users to ask at most.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(max_users) is not int or max_users < 1:
            raise LocalProtocolError(Reason.INVALID_VALUE, "max_users must be a positive integer", path="/max_users")
        now = check_now(now)
        ready = [user_id for user_id, due in self._due() if due <= now]
        for user in [self._users[user_id] for user_id in ready]:
            if not user.is_outdated:
                user.changed = self._now()
        return self._send(ready[: min(max_users, self._batch.size)]) if ready else None

    def query_now(self, user_ids: Iterable[str]) -> OutgoingQuery:
        """Return a query about tracked users, whether they are outdated, in flight, delayed or none of that.

        Raises:
            LocalProtocolError: one of them is not tracked.
        """
        asked = check_user_ids(user_ids)
        for user_id in asked:
            if user_id not in self._users:
                raise LocalProtocolError(
                    Reason.INVALID_VALUE, f"{quoted(user_id)} is not tracked", path=json_pointer(["user_ids", user_id])
                )
        return self._send(asked)

    def next_query_at(self) -> int | None:
        """Return the time from which :meth:`next_query` has something to ask; ``None`` if that depends on answers.

        A time that has passed means that there is something to ask now.
        """
        return min((due for _, due in self._due()), default=None)

    def receive_result(self, query_id: int, result: QueryResult, now: int) -> frozenset[str]:
        """Take over what the answer to a query amounts to.

        Args:
            query_id: which query.
            result: what :func:`~matrix_e2e_keys.check_query` made of its answer.
            now: the caller's time in milliseconds.

        Returns:
            The users whose devices and identities in ``result`` are to be stored, since no newer answer about them was
            there before. Nothing is to be stored of anybody else.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(result) is not QueryResult:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a QueryResult is needed", path="/result")
        now = check_now(now)
        asked = self._in_flight.pop(_checked_id(query_id), frozenset())
        if asked:
            self._servers.succeeded(_ALL_SERVERS)
            self._batch.succeeded(len(asked))
        failed = {user_id for user_id in asked if result.users.get(user_id) is UserAnswer.SERVER_FAILED}
        for server in {_server_of(user_id) for user_id in failed}:
            self._servers.failed(server, now)
        newest: set[str] = set()
        for user_id in sorted(asked - failed):
            user = self._users.get(user_id)
            if result.users.get(user_id) not in _UP_TO_DATE:
                self._unanswered.failed(user_id, now)
                continue
            self._servers.succeeded(_server_of(user_id))
            self._unanswered.succeeded(user_id)
            if user is not None and query_id > user.answered:
                user.answered, user.again_at = query_id, None
                newest.add(user_id)
        return frozenset(newest)

    def receive_failure(self, query_id: int, now: int, *, retry_after_ms: int | None = None) -> None:
        """Note that a query got no answer, or a :class:`~matrix_e2e_keys.MatrixError`. It will be asked again, later.

        Args:
            query_id: which query.
            now: the caller's time in milliseconds.
            retry_after_ms: how long the server wants one to wait, if it says so.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(retry_after_ms) not in (int, type(None)):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a delay is an integer", path="/retry_after_ms")
        now = check_now(now)
        asked = self._in_flight.pop(_checked_id(query_id), None)
        if asked is None:
            return
        self._servers.failed(_ALL_SERVERS, now, at_least_ms=granted(retry_after_ms))
        if retry_after_ms is None:
            self._batch.failed(len(asked))
            if len(asked) == 1 < len(self.outdated):
                after_all = self._servers.ready_at(_ALL_SERVERS) - now + AFTER_THE_OTHERS_MS
                self._unanswered.failed(next(iter(asked)), now, at_least_ms=after_all)

    def _due(self) -> Iterator[tuple[str, int]]:
        """Yield the users to ask about, and from when on."""
        in_flight = frozenset().union(*self._in_flight.values())
        of_all = self._servers.ready_at(_ALL_SERVERS)
        for user_id, user in self._users.items():
            wanted_at = of_all if user.is_outdated else user.again_at
            if wanted_at is not None and user_id not in in_flight:
                of_server = self._servers.ready_at(_server_of(user_id))
                yield user_id, max(wanted_at, of_all, of_server, self._unanswered.ready_at(user_id))

    def _send(self, user_ids: Iterable[str]) -> OutgoingQuery:
        request = KeysQueryRequest.for_users(user_ids)
        query_id = self._now()
        self._in_flight[query_id] = frozenset(request.asked)
        return OutgoingQuery(query_id=query_id, request=request)

    def _now(self) -> int:
        """Return the next moment of the tracker's own clock."""
        self._moment += 1
        return self._moment

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. Queries in flight and delays do not.

        Store it together with the token of ``/sync`` and the devices: what is stored later must not be older.
        """
        to_be_asked = self.to_be_asked
        return {
            "version": _VERSION,
            "own_user_id": self.own_user_id,
            "users": {user_id: {"outdated": user_id in to_be_asked} for user_id in self._users},
            "token": self._token,
            "gap": None if self._gap is None else list(self._gap),
        }

    @classmethod
    def from_json(cls, obj: object) -> DeviceListTracker:
        """Restore a tracker.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        tracker = cls(own_user_id=stored.member("own_user_id"))
        tracker.track(stored.member("users", dict))
        for user_id, user in stored.objects("users"):
            if not user.member("outdated", bool):
                tracker._users[user_id].answered = tracker._now()
        tracker._token = stored.member("token", str, type(None))
        gap = stored.member("gap", list, type(None))
        if gap is not None:
            if len(gap) != 2 or any(type(token) is not str for token in gap):
                raise LocalProtocolError(Reason.INVALID_VALUE, "a gap is two tokens", path="/gap")
            tracker._gap = (gap[0], gap[1])
        return tracker


def _checked_id(query_id: object) -> int:
    if type(query_id) is not int:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the id of a query is an integer", path="/query_id")
    return query_id


def _server_of(user_id: str) -> str:
    return user_id.partition(":")[2]
