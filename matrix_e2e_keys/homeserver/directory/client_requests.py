"""What a directory answers to its own users: the client-server API of keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from attrs import evolve, frozen

from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest, SendToDeviceResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.endpoints.dialects import CLIENT_V2_ALPHA, Dialect
from matrix_e2e_keys.endpoints.federation.edus import DirectToDevice
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.messages import Request, Response
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError
from matrix_e2e_keys.homeserver.admission.device_signing import decide_device_signing_upload
from matrix_e2e_keys.homeserver.admission.keys_upload import decide_keys_upload
from matrix_e2e_keys.homeserver.admission.signatures import decide_signatures_upload, signed_users
from matrix_e2e_keys.homeserver.claims.local_claims import decide_claims
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.directory.state import DirectoryState
from matrix_e2e_keys.homeserver.directory.values import Answers, Exchange, ServerRequest
from matrix_e2e_keys.homeserver.fan_out.claim_plan import plan_claim
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure
from matrix_e2e_keys.homeserver.fan_out.query_plan import QueryAnswer, plan_query
from matrix_e2e_keys.homeserver.remote_identity import verified_identity
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.legacy.countersigning import countersigned_by
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection

__all__ = ["ClientRequests", "deliver"]

R = TypeVar("R", bound=Response)
_ALL_DEVICES: Final = "*"
_TIMEOUT_MS: Final = 10_000


def read_answers(requests: Mapping[str, Request[R]], answers: Answers) -> dict[str, R | ServerFailure]:
    """Return what each server answered, or why there is nothing."""
    read: dict[str, R | ServerFailure] = {}
    for server_name, request in requests.items():
        response = answers.get(server_name)
        try:
            read[server_name] = ServerFailure.timed_out() if response is None else request.read_answer(response)
        except E2EKeysError as error:
            read[server_name] = ServerFailure.of(error)
    return read


def _require_readable(request: SendToDeviceRequest) -> None:
    """Refuse all messages if one of them cannot be sent: its sender would take it for delivered.

    Raises:
        RemoteProtocolError: one of them is malformed, or nothing that canonical JSON can represent.
    """
    of_users = request.messages.values()
    of_devices = [message for messages in of_users if isinstance(messages, Mapping) for message in messages.values()]
    for entry in (*request.malformed, *of_users, *of_devices):
        if isinstance(entry, Rejection):
            raise entry.to_error()


def deliver(state: DirectoryState, sender: str, event_type: str, user_id: str, messages: object) -> None:
    """Put messages into the mailboxes of the devices of a user."""
    user = state.store.user(user_id)
    if user is None or not isinstance(messages, Mapping):
        return
    for device_id, content in messages.items():
        if isinstance(content, Rejection):
            continue
        event: JsonObject = {"sender": sender, "type": event_type, "content": thaw(dict(content))}
        for device in user.devices if device_id == _ALL_DEVICES else (device_id,):
            if device in user.devices:
                state.mailbox.put(user_id, device, event, position=state.stream.next_position())


def _countersigned(answer: QueryAnswer) -> dict[str, Any]:
    """Return the device keys of an answer, with the signatures of the servers that told of them."""
    device_keys: dict[str, Any] = {
        user_id: devices if isinstance(devices, Rejection) else dict(devices)
        for user_id, devices in answer.response.device_keys.items()
    }
    for server_name, of_server in answer.countersignatures.items():
        for (user_id, device_id), by_key in of_server.items():
            keys = device_keys[user_id][device_id]
            if isinstance(keys, DeviceKeys):
                device_keys[user_id][device_id] = countersigned_by(keys, server_name, by_key)
    return device_keys


def _told_master_key(answer: UserKeysQueryResponse, user_id: str, state: DirectoryState) -> CrossSigningKey | None:
    """Return the master key of a user, as the user's server tells of it; ``None`` if it tells of none that counts."""
    identity = verified_identity(
        user_id,
        master_key=answer.master_keys.get(user_id),
        self_signing_key=answer.self_signing_keys.get(user_id),
        verifier=state.verifier,
    )
    return identity.master_key


@frozen
class ClientRequests:
    """Answers the requests of clients."""

    _state: DirectoryState

    def begin(self, request: Request[Any], *, requester: Requester, dialect: Dialect, now: int) -> Exchange:
        """Begin to answer a request.

        Raises:
            MatrixError: it is refused.
        """
        if isinstance(request, KeysQueryRequest):
            return self._query(request, requester, dialect)
        if isinstance(request, KeysClaimRequest):
            return self._claim(request, requester, dialect, now)
        if isinstance(request, SignaturesUploadRequest):
            return self._upload_signatures(request, requester, dialect, now)
        return Exchange(response=self._at_once(request, requester, now).to_http(dialect))

    def _at_once(self, request: Request[Any], requester: Requester, now: int) -> Response:
        if isinstance(request, KeysUploadRequest):
            return self._upload_keys(request, requester, now)
        if isinstance(request, DeviceSigningUploadRequest):
            return self._upload_identity(request, requester, now)
        if isinstance(request, KeysChangesRequest):
            return self._changes(request, requester)
        if isinstance(request, SendToDeviceRequest):
            return self._send_to_device(request, requester, now)
        raise MatrixError(status=404, errcode="M_UNRECOGNIZED", error="Unrecognized request")

    # ----------------------------------------------------------------------------------------------------------
    # Uploads
    # ----------------------------------------------------------------------------------------------------------

    def _carried_out(self, decision: Decision[R], now: int) -> R:
        answer = decision.require()
        self._state.commit(decision.effects, now=now)
        return answer

    def _upload_keys(self, request: KeysUploadRequest, requester: Requester, now: int) -> Response:
        state = self._state
        decision = decide_keys_upload(
            request,
            requester=requester,
            view=state.store.upload_view(requester.user_id, requester.device_id),
            policy=state.policy,
            verifier=state.verifier,
        )
        return self._carried_out(decision, now)

    def _upload_identity(self, request: DeviceSigningUploadRequest, requester: Requester, now: int) -> Response:
        state = self._state
        has_failed = False
        if request.auth is not None and state.authenticate is not None and not requester.has_authenticated:
            requester = evolve(requester, has_authenticated=bool(state.authenticate(requester, request.auth)))
            has_failed = "type" in request.auth and not requester.has_authenticated
        decision = decide_device_signing_upload(
            request,
            requester=requester,
            stored=state.store.users([requester.user_id])[requester.user_id],
            policy=state.policy,
            verifier=state.verifier,
        )
        answer = decision.answer
        if has_failed and isinstance(answer, MatrixError) and answer.user_interactive is not None:
            # It is answered with the question again, "with the addition of the standard `errcode` and `error` fields".
            raise MatrixError(
                status=401,
                errcode="M_FORBIDDEN",
                error="The authentication failed",
                user_interactive=answer.user_interactive,
            )
        return self._carried_out(decision, now)

    def _upload_signatures(
        self, request: SignaturesUploadRequest, requester: Requester, dialect: Dialect, now: int
    ) -> Exchange:
        state = self._state
        signed = signed_users(request, requester=requester)
        abroad: dict[str, list[str]] = {}
        for user_id in signed:
            if not state.is_local(user_id) and state.remote.cached(user_id) is None:
                abroad.setdefault(home_of(user_id), []).append(user_id)
        requests = {name: UserKeysQueryRequest.for_users(user_ids) for name, user_ids in abroad.items()}

        def finish(answers: Answers, now: int) -> Exchange:
            master_keys: dict[str, CrossSigningKey | None] = dict.fromkeys(signed)
            for server_name, answer in read_answers(requests, answers).items():
                if not isinstance(answer, ServerFailure):
                    for user_id in abroad[server_name]:
                        master_keys[user_id] = _told_master_key(answer, user_id, state)
            # Others may have changed while one waited.
            for user_id in signed:
                known = state.store.user(user_id) if state.is_local(user_id) else state.remote.cached(user_id)
                if known is not None:
                    master_keys[user_id] = known.master_key
            decision = decide_signatures_upload(
                request,
                requester=requester,
                stored=state.store.users([requester.user_id])[requester.user_id],
                others=master_keys,
                policy=state.policy,
                verifier=state.verifier,
            )
            return Exchange(response=self._carried_out(decision, now).to_http(dialect))

        return self._fan_out(requests, _TIMEOUT_MS, finish, now)

    def _asked(self, requests: Mapping[str, Request[Any]], timeout_ms: int) -> tuple[ServerRequest, ...]:
        return tuple(
            self._state.ask(server_name, request, timeout_ms=timeout_ms) for server_name, request in requests.items()
        )

    # ----------------------------------------------------------------------------------------------------------
    # Queries and claims
    # ----------------------------------------------------------------------------------------------------------

    def _fan_out(
        self,
        requests: Mapping[str, Request[Any]],
        timeout_ms: int,
        finish: Callable[[Answers, int], Exchange],
        now: int,
    ) -> Exchange:
        if not requests:
            return finish({}, now)
        return Exchange(requests=self._asked(requests, timeout_ms), step=finish)

    def _query(self, request: KeysQueryRequest, requester: Requester, dialect: Dialect) -> Exchange:
        state = self._state
        asked = request.asked
        cached = {user_id: keys for user_id in asked if (keys := state.remote.cached(user_id)) is not None}
        plan = plan_query(
            request, requester=requester, server_name=state.server_name, cached=cached, policy=state.policy
        )

        def finish(answers: Answers, _now: int) -> Exchange:
            me = state.store.user(requester.user_id)
            answer = plan.answer(
                local=state.store.users(plan.local),
                remote=read_answers(plan.remote, answers),
                fallback={user_id: keys for user_id in asked if (keys := state.remote.cached_stale(user_id))},
                signatures=() if me is None else me.signatures,
            )
            if dialect is CLIENT_V2_ALPHA:
                return Exchange(response=self._as_in_2015(answer, plan.local).to_http(dialect))
            return Exchange(response=answer.response.to_http(dialect))

        return self._fan_out(plan.remote, plan.timeout_ms, finish, 0)

    def _as_in_2015(self, answer: QueryAnswer, asked: Mapping[str, tuple[str, ...]]) -> KeysQueryResponse:
        """Return an answer that names the devices without keys too, and bears the signatures of both servers."""
        told = KeysQueryResponse(device_keys=_countersigned(answer))
        return self._state.as_in_2015(told, asked)

    def _claim(self, request: KeysClaimRequest, requester: Requester, dialect: Dialect, now: int) -> Exchange:
        state = self._state
        plan = plan_claim(request, requester=requester, server_name=state.server_name, policy=state.policy)
        wanted = state.ledger.grant(requester.user_id, plan.local, now=now)

        def finish(answers: Answers, now: int) -> Exchange:
            pools = state.pools(wanted)
            local = decide_claims(wanted, pools=pools)
            state.commit(local.effects, now=now)
            answer = plan.answer(local=local.keys, remote=read_answers(plan.remote, answers))
            # The keys are taken: they go out in whatever form they have, also where the dialect has another.
            response = answer.response.as_in(dialect)
            try:
                return Exchange(response=response.to_http(dialect))
            except LocalProtocolError:
                return Exchange(response=response.to_http())

        return self._fan_out(plan.remote, plan.timeout_ms, finish, now)

    # ----------------------------------------------------------------------------------------------------------
    # Changes and messages
    # ----------------------------------------------------------------------------------------------------------

    def _changes(self, request: KeysChangesRequest, requester: Requester) -> Response:
        position = self._state.stream.position_of(request.from_token)
        if position is None:
            raise MatrixError(status=400, errcode="M_UNKNOWN", error="Invalid stream token")
        lists = self._state.stream.lists_since(requester.user_id, position)
        return KeysChangesResponse(changed=lists.changed, left=lists.left)

    def _send_to_device(self, request: SendToDeviceRequest, requester: Requester, now: int) -> Response:
        _require_readable(request)
        state = self._state
        name = json.dumps([requester.user_id, requester.device_id, request.event_type, request.txn_id])
        local: dict[str, Any] = {}
        remote: dict[str, dict[str, Any]] = {}
        for user_id, messages in request.messages.items():
            (local if state.is_local(user_id) else remote.setdefault(home_of(user_id), {}))[user_id] = messages
        edus = {
            server_name: DirectToDevice(
                sender=requester.user_id,
                event_type=request.event_type,
                message_id=f"{now}-{state.stream.position}-{server_name}",
                messages=of_users,
            )
            for server_name, of_users in remote.items()
        }
        for server_name, edu in edus.items():
            state.check_carried(server_name, edu, now=now)
        if state.mailbox.is_new(name):
            for user_id, messages in local.items():
                deliver(state, requester.user_id, request.event_type, user_id, messages)
            for server_name, edu in edus.items():
                state.stream.next_position()
                state.transactions.add_message(server_name, edu)
        return SendToDeviceResponse()
