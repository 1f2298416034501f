"""What a directory answers to other servers: the server-server API of keys."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, DirectToDevice, Edu, SigningKeyUpdate
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest, SendTransactionResponse
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesRequest
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimRequest
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.messages import Request, Response
from matrix_e2e_keys.homeserver.claims.local_claims import decide_claims
from matrix_e2e_keys.homeserver.directory.client_requests import deliver
from matrix_e2e_keys.homeserver.directory.state import DirectoryState
from matrix_e2e_keys.homeserver.fan_out.claim_plan import plan_user_keys_claim, user_keys_claimed
from matrix_e2e_keys.homeserver.fan_out.federation_answers import decide_user_devices, decide_user_keys_query
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.outcome import Rejection

__all__ = ["ServerRequests"]


@frozen
class ServerRequests:
    """Answers the requests of other servers, once it is known who asks."""

    _state: DirectoryState

    def answer(self, request: Request[Any], *, origin: str, now: int) -> Response:
        """Answer a request.

        Raises:
            MatrixError: it is refused.
        """
        self._state.transactions.heard_from(origin)
        if isinstance(request, UserKeysQueryRequest):
            return self._query(request, origin)
        if isinstance(request, UserKeysClaimRequest):
            return self._claim(request, origin, now)
        if isinstance(request, UserDevicesRequest):
            return self._devices(request, origin)
        if isinstance(request, SendTransactionRequest):
            return self._transaction(request, origin, now)
        raise MatrixError(status=404, errcode="M_UNRECOGNIZED", error="Unrecognized request")

    def _query(self, request: UserKeysQueryRequest, origin: str) -> Response:
        state = self._state
        decision = decide_user_keys_query(
            request,
            origin=origin,
            server_name=state.server_name,
            local=state.store.users(request.asked),
            shows_display_names=state.shows_display_names,
            policy=state.policy,
        )
        answer = decision.require()
        return state.as_in_2015(answer, request.asked) if state.countersigns else answer

    def _devices(self, request: UserDevicesRequest, origin: str) -> Response:
        state = self._state
        decision = decide_user_devices(
            request,
            origin=origin,
            server_name=state.server_name,
            stored=state.store.user(request.user_id),
            stream_id=state.transactions.outbox.stream_id_of(request.user_id),
            shows_display_names=state.shows_display_names,
        )
        return decision.require()

    def _claim(self, request: UserKeysClaimRequest, origin: str, now: int) -> Response:
        state = self._state
        plan = plan_user_keys_claim(request, origin=origin, server_name=state.server_name, policy=state.policy)
        wanted = state.server_ledger.grant(origin, plan.local, now=now)
        claims = decide_claims(wanted, pools=state.pools(wanted))
        state.commit(claims.effects, now=now)
        return user_keys_claimed(claims.keys)

    def _transaction(self, request: SendTransactionRequest, origin: str, now: int) -> Response:
        for edu in request.edus:
            if not isinstance(edu, Rejection):
                self._edu(edu, origin, now)
        return SendTransactionResponse()

    def _edu(self, edu: Edu, origin: str, now: int) -> None:
        state = self._state
        if isinstance(edu, DeviceListUpdate | SigningKeyUpdate):
            outcome = state.remote.receive_edu(edu, origin=origin, now=now)
            state.announce(outcome.changed, now=now)
        elif isinstance(edu, DirectToDevice):
            is_theirs = home_of(edu.sender) == origin
            if is_theirs and state.mailbox.is_new(f"{origin} {edu.message_id}"):
                for user_id, messages in edu.messages.items():
                    deliver(state, edu.sender, edu.event_type, user_id, messages)
