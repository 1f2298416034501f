"""``/keys/claim``: whose keys are to be handed out, who is to be asked, and what the answers amount to.

Specification: client-server API, "Key management API": ``/keys/claim``; server-server API, "End-to-End Encryption".

Facts:

* Keys of this server's devices are decided on by :func:`~matrix_e2e_keys.decide_claims`. Each other server gets one
  request for all of its users.
* Where there is no key, the device is left out of the answer, and a user of whom there is none.
* A server that fails costs its own users, and nobody else. It may have handed out keys all the same.
* Another server may claim keys of this server's users only. If it names anybody else, it gets nothing at all.
* What is no device id is a device that nobody has: no server is asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimRequest, UserKeysClaimResponse
from matrix_e2e_keys.endpoints.members import Check, instances, list_of, map_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.claims.local_claims import HandedOutKey, KeyWanted
from matrix_e2e_keys.homeserver.decisions import Requester, check_requester
from matrix_e2e_keys.homeserver.fan_out.asked_servers import (
    by_server,
    first_foreigner,
    invalid_name,
    refused_size,
    waiting_time,
)
from matrix_e2e_keys.homeserver.fan_out.claim_filter import filter_claim_answer, shown_one_time_key
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure, usable
from matrix_e2e_keys.homeserver.policies import SPEC, Policy, check_policy
from matrix_e2e_keys.identifiers import check_server_name, is_device_id
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.outcome import Rejection

__all__ = ["ClaimAnswer", "ClaimPlan", "IncomingClaim", "plan_claim", "plan_user_keys_claim", "user_keys_claimed"]

_ANSWERS: Final[Check[Mapping[str, UserKeysClaimResponse | ServerFailure]]] = map_of(
    instances(UserKeysClaimResponse, ServerFailure)
)


@frozen(kw_only=True)
class ClaimAnswer:
    """What to answer, and what came out on the way.

    Attributes:
        response: the answer.
        dropped_by: server name to what was dropped of its answer; paths point into that answer.
    """

    response: KeysClaimResponse
    dropped_by: Mapping[str, tuple[Rejection, ...]]

    @property
    def dropped(self) -> tuple[Rejection, ...]:
        """What was dropped, of all servers."""
        return tuple(rejection for of_server in self.dropped_by.values() for rejection in of_server)


@frozen(kw_only=True)
class ClaimPlan:
    """What is to be handed out, and what is to be asked.

    Attributes:
        request: what the client claimed.
        requester: who claims.
        server_name: this server.
        local: the keys of this server's devices that are wanted.
        remote: server name to the one request to send there.
        timeout_ms: how many milliseconds to wait for the other servers.
    """

    request: KeysClaimRequest
    requester: Requester
    server_name: str
    local: tuple[KeyWanted, ...]
    remote: Mapping[str, UserKeysClaimRequest]
    timeout_ms: int

    def answer(
        self, *, local: Iterable[HandedOutKey], remote: Mapping[str, UserKeysClaimResponse | ServerFailure]
    ) -> ClaimAnswer:
        """Put the answer together.

        Args:
            local: the keys of this server's devices that are handed out.
            remote: what the other servers answered. One that is missing has not answered.

        Raises:
            LocalProtocolError: an argument has the wrong type, or a key is handed out that this plan does not want, or
                more than one where it wants one.
        """
        with raised_as(LocalProtocolError):
            handed_out: tuple[HandedOutKey, ...] = list_of(instances(HandedOutKey))(local, "local")
            answers = _ANSWERS(remote, "remote")
            _check_wanted(handed_out, self.local)
        keys: dict[str, Any] = _shown(handed_out)
        failures: dict[str, Any] = {}
        dropped: dict[str, tuple[Rejection, ...]] = {}
        for server_name, request in self.remote.items():
            answer = usable(answers.get(server_name), "one_time_keys")
            if isinstance(answer, ServerFailure):
                failures[server_name] = answer.to_json()
                continue
            filtered = filter_claim_answer(answer, server_name=server_name, asked=request.asked)
            keys.update({user_id: dict(of_user) for user_id, of_user in filtered.keys.items()})
            if filtered.dropped:
                dropped[server_name] = filtered.dropped
        return ClaimAnswer(
            response=KeysClaimResponse(one_time_keys=keys, failures=failures), dropped_by=FrozenMap(dropped)
        )


def plan_claim(
    request: KeysClaimRequest, *, requester: Requester, server_name: str, policy: Policy = SPEC
) -> ClaimPlan:
    """Plan how to answer a claim.

    Args:
        request: what the client claims. Names that are no user ids are passed over, unless the policy refuses them.
        requester: who claims.
        server_name: this server.
        policy: how much may be claimed.

    Raises:
        MatrixError: keys of too many users or devices are claimed (400, ``M_TOO_LARGE``), or a name is no user id
            (400, ``M_INVALID_PARAM``).
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        instances(KeysClaimRequest)(request, "request")
    check_requester(requester)
    check_server_name(server_name, "server_name")
    refusal = refused_size(request.one_time_keys, check_policy(policy).limits)
    if refusal is None and policy.refuses_invalid_names:
        refusal = invalid_name(request.one_time_keys)
    if refusal is not None:
        raise refusal
    local, others = by_server(request.asked, server_name)
    remote: dict[str, UserKeysClaimRequest] = {}
    for home, asked in others.items():
        claimed = {user_id: _of_devices(of_user) for user_id, of_user in asked.items()}
        if any(claimed.values()):
            remote[home] = UserKeysClaimRequest(
                one_time_keys={user_id: of_user for user_id, of_user in claimed.items() if of_user}
            )
    return ClaimPlan(
        request=request,
        requester=requester,
        server_name=server_name,
        local=tuple(_wanted(local)),
        remote=FrozenMap(remote),
        timeout_ms=waiting_time(request.timeout),
    )


@frozen(kw_only=True)
class IncomingClaim:
    """What another server claims.

    Attributes:
        origin: which server.
        local: the keys that are wanted, all of this server's devices.
    """

    origin: str
    local: tuple[KeyWanted, ...]


def plan_user_keys_claim(
    request: UserKeysClaimRequest, *, origin: str, server_name: str, policy: Policy = SPEC
) -> IncomingClaim:
    """Return what another server claims; :func:`user_keys_claimed` answers it.

    Args:
        request: what it claims.
        origin: which server, as its signature proves.
        server_name: this server.
        policy: how much may be claimed.

    Raises:
        MatrixError: keys of too many users or devices are claimed (400, ``M_TOO_LARGE``), or of somebody who is no user
            of this server (400, ``M_UNKNOWN``) or no user at all (400, ``M_INVALID_PARAM``).
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        instances(UserKeysClaimRequest)(request, "request")
    check_server_name(origin, "origin")
    check_server_name(server_name, "server_name")
    asked = request.one_time_keys
    refusal = refused_size(asked, check_policy(policy).limits) or first_foreigner(asked, server_name)
    if refusal is not None:
        raise refusal
    return IncomingClaim(origin=origin, local=tuple(_wanted(request.asked)))


def user_keys_claimed(handed_out: Iterable[HandedOutKey]) -> UserKeysClaimResponse:
    """Return the answer to another server's claim.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        keys: tuple[HandedOutKey, ...] = list_of(instances(HandedOutKey))(handed_out, "handed_out")
    return UserKeysClaimResponse(one_time_keys=_shown(keys))


def _of_devices(of_user: Mapping[str, str]) -> dict[str, str]:
    return {device_id: algorithm for device_id, algorithm in of_user.items() if is_device_id(device_id)}


def _wanted(asked: Mapping[str, Mapping[str, str]]) -> Iterator[KeyWanted]:
    for user_id, of_user in asked.items():
        for device_id, algorithm in _of_devices(of_user).items():
            yield KeyWanted(user_id=user_id, device_id=device_id, algorithm=algorithm)


def _check_wanted(handed_out: Iterable[HandedOutKey], wanted: Iterable[KeyWanted]) -> None:
    left = {(key.user_id, key.device_id, key.algorithm) for key in wanted}
    for place, key in enumerate(handed_out):
        what = (key.wanted.user_id, key.wanted.device_id, key.wanted.algorithm)
        if what not in left:
            raise Refusal(Reason.UNREQUESTED, "this key is not wanted, or not once more", "local", place)
        left.remove(what)


def _shown(handed_out: Iterable[HandedOutKey]) -> dict[str, dict[str, dict[str, OneTimeKey | Rejection]]]:
    """Return user id to device id to key id to key."""
    keys: dict[str, dict[str, dict[str, OneTimeKey | Rejection]]] = {}
    for key in handed_out:
        user_id, device_id = key.wanted.user_id, key.wanted.device_id
        shown = shown_one_time_key(key.key_id, key.key, user_id, device_id)
        keys.setdefault(user_id, {}).setdefault(device_id, {})[key.key_id] = shown
    return keys
