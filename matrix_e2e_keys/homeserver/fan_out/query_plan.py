"""``/keys/query``: who is to be asked, and what the answers amount to.

Specification: client-server API, "Key management API": ``/keys/query``; server-server API, "End-to-End Encryption".

Facts:

* Users of this server are looked up, users whose device lists are kept are taken from there, everybody else is asked
  for: one request for each server.
* Every user of this server who is asked about is answered, with no devices if there are none. Of another server, who
  or what is unknown "is missing from the ``device_keys`` result", and that is no failure.
* A server that fails costs its own users, and nobody else. Where an older answer is known, it is given instead; the
  server stands among the failures if that was not possible for all who were asked about.
* What the asking user signed stands on the master keys of others, wherever these come from.
* What another server says is judged by :mod:`~matrix_e2e_keys.homeserver.fan_out.query_filter`.

Deviation: the answers of others are not stored. ``learned`` tells what they were; a device list that is kept comes from
``/user/devices``, since an answer to a query has no place in the stream of updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.endpoints.members import instances, list_of, map_of
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.decisions import Requester, check_requester
from matrix_e2e_keys.homeserver.fan_out.asked_servers import (
    by_server,
    refused_size,
    user_views,
    waiting_time,
)
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure, usable
from matrix_e2e_keys.homeserver.fan_out.query_filter import filter_query_answer
from matrix_e2e_keys.homeserver.fan_out.shown_users import ShownUsers
from matrix_e2e_keys.homeserver.policies import SPEC, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import UserKeys, UserSignature
from matrix_e2e_keys.homeserver.visibility import UserViewer
from matrix_e2e_keys.identifiers import check_server_name
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["QueryAnswer", "QueryPlan", "plan_query"]

_NOBODY: Final[Mapping[str, UserKeys]] = FrozenMap({})


@frozen(kw_only=True)
class QueryAnswer:
    """What to answer, and what came out on the way.

    Attributes:
        response: the answer.
        dropped_by: server name to what was dropped of its answer; paths point into that answer.
        learned: user id to devices and identity, for the users of other servers of whom the whole list was asked for
            and told. It may serve as ``fallback`` when the server fails.
        countersignatures: server name to user id and device id to key id to signature, for device keys that were signed
            by the server that answered, as the draft of 2015 wants it. They are not in ``response``.
    """

    response: KeysQueryResponse
    dropped_by: Mapping[str, tuple[Rejection, ...]]
    learned: Mapping[str, UserKeys]
    countersignatures: Mapping[str, Mapping[tuple[str, str], Mapping[str, str]]] = FrozenMap({})

    @property
    def dropped(self) -> tuple[Rejection, ...]:
        """What was dropped, of all servers."""
        return tuple(rejection for of_server in self.dropped_by.values() for rejection in of_server)


@frozen(kw_only=True)
class QueryPlan:
    """What is to be looked up, and what is to be asked.

    Attributes:
        request: what the client asked.
        requester: who asks.
        server_name: this server.
        local: user id to device ids, none of which means all: users of this server, to be looked up.
        remote: server name to the one request to send there.
        cached: user id to what is kept of that user: of those nobody has to be asked for.
        timeout_ms: how many milliseconds to wait for the other servers.
    """

    request: KeysQueryRequest
    requester: Requester
    server_name: str
    local: Mapping[str, tuple[str, ...]]
    remote: Mapping[str, UserKeysQueryRequest]
    cached: Mapping[str, UserKeys]
    timeout_ms: int

    def answer(
        self,
        *,
        local: Mapping[str, UserKeys],
        remote: Mapping[str, UserKeysQueryResponse | ServerFailure],
        fallback: Mapping[str, UserKeys] = _NOBODY,
        signatures: Iterable[UserSignature] = (),
        verifier: Verifier = LIBSODIUM,
    ) -> QueryAnswer:
        """Put the answer together.

        Args:
            local: what is stored of the users of this server. Who is missing is unknown.
            remote: what the other servers answered. One that is missing has not answered.
            fallback: what was once known of users of other servers, for the case that their server fails.
            signatures: what the requester signed of others. Those by others are not looked at.
            verifier: who checks the cross-signing keys that other servers tell of.

        Raises:
            LocalProtocolError: an argument has the wrong type, or a user stands under another name.
        """
        views = user_views(local, "local")
        earlier = user_views(fallback, "fallback")
        with raised_as(LocalProtocolError):
            answers = map_of(instances(UserKeysQueryResponse, ServerFailure))(remote, "remote")
            signed: tuple[UserSignature, ...] = list_of(instances(UserSignature))(signatures, "signatures")
        check_verifier(verifier)
        found = _Found(answers=answers, earlier=earlier, verifier=verifier)
        found.users.update(self.cached)
        for user_id in self.local:
            # If "the user or device was unknown, no failure is recorded".
            found.users[user_id] = views.get(user_id, UserKeys(user_id=user_id))
        for server_name, request in self.remote.items():
            found.take(server_name, request)
        shown = ShownUsers(
            viewer=UserViewer(user_id=self.requester.user_id),
            shows_display_names=True,
            signatures=_by_signed_user(signed),
        )
        for user_id, device_ids in self.request.asked.items():
            if user_id in found.users:
                shown.add(found.users[user_id], device_ids, has_list=user_id not in found.without_list)
        shown.finish()
        failures = {server_name: failure.to_json() for server_name, failure in found.failures.items()}
        keys: dict[str, Any] = shown.keys
        return QueryAnswer(
            response=KeysQueryResponse(device_keys=shown.device_keys, failures=failures, **keys),
            dropped_by=FrozenMap(found.dropped),
            learned=FrozenMap(found.learned),
            countersignatures=FrozenMap(found.countersignatures),
        )


def plan_query(
    request: KeysQueryRequest,
    *,
    requester: Requester,
    server_name: str,
    cached: Mapping[str, UserKeys] = _NOBODY,
    policy: Policy = SPEC,
) -> QueryPlan:
    """Plan how to answer a query.

    Args:
        request: what the client asks. Names that are no user ids are passed over.
        requester: who asks.
        server_name: this server.
        cached: what is kept, and up to date, of users of other servers.
        policy: how much may be asked.

    Raises:
        MatrixError: too many users or devices are asked for (400, ``M_TOO_LARGE``).
        LocalProtocolError: an argument has the wrong type, or a user stands under another name.
    """
    with raised_as(LocalProtocolError):
        instances(KeysQueryRequest)(request, "request")
    check_requester(requester)
    check_server_name(server_name, "server_name")
    kept = user_views(cached, "cached")
    limits = check_policy(policy).limits
    refusal = refused_size(request.device_keys, limits)
    if refusal is not None:
        raise refusal
    local, others = by_server(request.asked, server_name)
    remote: dict[str, UserKeysQueryRequest] = {}
    used: dict[str, UserKeys] = {}
    for home, asked in others.items():
        used.update({user_id: kept[user_id] for user_id in asked if user_id in kept})
        unknown = {user_id: device_ids for user_id, device_ids in asked.items() if user_id not in kept}
        if unknown:
            remote[home] = UserKeysQueryRequest(device_keys=unknown)
    return QueryPlan(
        request=request,
        requester=requester,
        server_name=server_name,
        local=FrozenMap(local),
        remote=FrozenMap(remote),
        cached=FrozenMap(used),
        timeout_ms=waiting_time(request.timeout),
    )


@define(kw_only=True)
class _Found:
    """What is known of the users while an answer is put together."""

    answers: Mapping[str, UserKeysQueryResponse | ServerFailure]
    earlier: Mapping[str, UserKeys]
    verifier: Verifier
    users: dict[str, UserKeys] = field(factory=dict)
    without_list: frozenset[str] = frozenset()
    learned: dict[str, UserKeys] = field(factory=dict)
    failures: dict[str, ServerFailure] = field(factory=dict)
    dropped: dict[str, tuple[Rejection, ...]] = field(factory=dict)
    countersignatures: dict[str, Mapping[tuple[str, str], Mapping[str, str]]] = field(factory=dict)

    def take(self, server_name: str, request: UserKeysQueryRequest) -> None:
        """Take the answer of a server, or what is known without it."""
        answer = usable(self.answers.get(server_name), "device_keys")
        asked = request.asked
        if isinstance(answer, ServerFailure):
            self._do_without(server_name, answer, asked)
            return
        filtered = filter_query_answer(answer, server_name=server_name, asked=asked, verifier=self.verifier)
        self.users.update(filtered.users)
        self.without_list |= filtered.without_list
        whole = [name for name in filtered.users if not asked[name] and name not in filtered.without_list]
        self.learned.update({user_id: filtered.users[user_id] for user_id in whole})
        if filtered.countersignatures:
            self.countersignatures[server_name] = filtered.countersignatures
        if filtered.dropped:
            self.dropped[server_name] = filtered.dropped

    def _do_without(self, server_name: str, failure: ServerFailure, asked: Iterable[str]) -> None:
        """Take what was known earlier; it is a failure if that is not everybody."""
        served = {user_id: self.earlier[user_id] for user_id in asked if user_id in self.earlier}
        self.users.update(served)
        if any(user_id not in served for user_id in asked):
            self.failures[server_name] = failure


def _by_signed_user(signatures: Iterable[UserSignature]) -> Mapping[str, list[UserSignature]]:
    by_user: dict[str, list[UserSignature]] = {}
    for signature in signatures:
        by_user.setdefault(signature.user_id, []).append(signature)
    return by_user
