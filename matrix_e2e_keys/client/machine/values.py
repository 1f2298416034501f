"""What a :class:`~matrix_e2e_keys.KeyMachine` sends, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.client.claims.claim import ClaimResult
from matrix_e2e_keys.client.cross_signing.served import SignatureConfirmation
from matrix_e2e_keys.client.cross_signing.signatures import SignaturesUploadResult
from matrix_e2e_keys.client.queries.query import QueryResult
from matrix_e2e_keys.client.receive.olm_judgments import OlmJudgment
from matrix_e2e_keys.client.supply.upload import OneTimeKeyConflict
from matrix_e2e_keys.client.supply.values import KeyUse
from matrix_e2e_keys.client.users.changes import KeyChange
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest, SignaturesUploadResponse
from matrix_e2e_keys.endpoints.user_interactive import UserInteractiveAuth
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.models.cross_signing import Usage
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey

__all__ = ["MachineRequest", "MachineResponse", "OutgoingRequest", "Received", "ReceivedOlmEvent"]

MachineRequest: TypeAlias = (
    KeysUploadRequest
    | KeysQueryRequest
    | KeysClaimRequest
    | KeysChangesRequest
    | DeviceSigningUploadRequest
    | SignaturesUploadRequest
)
"""What a machine sends."""

MachineResponse: TypeAlias = (
    KeysUploadResponse
    | KeysQueryResponse
    | KeysClaimResponse
    | KeysChangesResponse
    | DeviceSigningUploadResponse
    | SignaturesUploadResponse
)
"""What it gets."""


@frozen(kw_only=True)
class OutgoingRequest:
    """A request to send.

    Attributes:
        request_id: to be named when the answer arrives. A restored machine knows none of before, and gives no id again
            as long as the clock goes on.
        request: what to send: ``request.to_http()``, and ``request.read_answer(...)`` for the answer.
    """

    request_id: str
    request: MachineRequest


@frozen(kw_only=True)
class Received:
    """What an answer amounts to. What the answer is not about is empty, or ``None``.

    Attributes:
        changes: what has changed about anybody's keys.
        query: the judgment of a ``/keys/query``, with everything that was refused.
        claim: the judgment of a ``/keys/claim``.
        sessions: user id to device id to the key to open a session with. Say what came of each:
            :meth:`ClaimPlanner.session_opened`, :meth:`ClaimPlanner.session_failed`.
        conflict: the one-time key for which an upload was refused.
        signatures: the judgment of an upload of signatures.
        confirmation: which of the signatures that were uploaded the server serves. What is missing may be there in the
            next answer.
        authentication: what the server wants to have proved; answer with :meth:`OwnSigning.authenticate`.
        stale_secrets: the private keys at hand that are not those of one's own identity as it is served: somebody has
            replaced it. If the user confirms that, delete their seeds.
        set_up_given_up: whether a set-up was given up, since the server shows another identity of one's own by now.
        error: why the request failed, if it did. Together with ``authentication``, what was wrong with the last proof.
    """

    changes: tuple[KeyChange, ...] = ()
    query: QueryResult | None = None
    claim: ClaimResult | None = None
    sessions: Mapping[str, Mapping[str, VerifiedOneTimeKey]] = field(factory=dict)
    conflict: OneTimeKeyConflict | None = None
    signatures: SignaturesUploadResult | None = None
    confirmation: SignatureConfirmation | None = None
    authentication: UserInteractiveAuth | None = None
    stale_secrets: tuple[Usage, ...] = ()
    set_up_given_up: bool = False
    error: E2EKeysError | None = None


@frozen(kw_only=True)
class ReceivedOlmEvent:
    """What a message to this device amounts to.

    Attributes:
        judgment: the event, or every check that it did not pass.
        key_use: which kind of one's own keys it used, if it was the first message of a session. With a fallback key it
            may be a replay.
    """

    judgment: OlmJudgment
    key_use: KeyUse | None
