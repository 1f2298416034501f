"""Matrix end-to-end-encryption keys: models, signatures, endpoints, checks. No I/O.

Everything a user needs is importable from here. The modules below exist for those who read the code.
"""

from typing import Final

from matrix_e2e_keys.algorithms import CURVE25519, ED25519, MEGOLM_V1, OLM_V1, SIGNED_CURVE25519
from matrix_e2e_keys.canonical_json import encode_canonical_json, parse_json
from matrix_e2e_keys.client.claims.claim import ClaimResult, check_claim
from matrix_e2e_keys.client.claims.claim_planner import ClaimPlanner, OutgoingClaim
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState, BootstrapStep, CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.device_signing import sign_own_master_key
from matrix_e2e_keys.client.cross_signing.own_signing import OwnSigning
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningKeys, CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.served import (
    SignatureConfirmation,
    UnservedSignature,
    UploadedSignature,
    confirm_signatures,
    verify_served_device,
)
from matrix_e2e_keys.client.cross_signing.signature_queue import OutgoingSignatures, SignatureQueue
from matrix_e2e_keys.client.cross_signing.signatures import (
    RefusedSignatures,
    SignaturesUploadResult,
    check_signatures_upload,
)
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.machine.values import MachineRequest, MachineResponse, OutgoingRequest, Received
from matrix_e2e_keys.client.queries.device_lists import DeviceListTracker, OutgoingQuery
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.queries.query import QueryResult, UserAnswer, check_query
from matrix_e2e_keys.client.supply.key_supply import KeySupply
from matrix_e2e_keys.client.supply.upload import (
    DeviceUploadPlan,
    DeviceUploadVerdict,
    OneTimeKeyConflict,
    one_time_key_conflict,
    plan_device_upload,
)
from matrix_e2e_keys.client.supply.values import KeyUse, NeededKeys, OutgoingUpload, SupplyPolicy
from matrix_e2e_keys.client.trust.recipients import (
    ProblemKind,
    RecipientPolicy,
    RecipientProblem,
    Recipients,
    WithheldCode,
    select_recipients,
)
from matrix_e2e_keys.client.trust.trust import DeviceTrust, TrustProof, device_trust, explain_device, explain_user
from matrix_e2e_keys.client.trust.trust_links import KeyName, LinkVerdict, TrustLink
from matrix_e2e_keys.client.users.changes import ChangeKind, KeyChange
from matrix_e2e_keys.client.users.identity import TRANSITIONS, IdentityEvent, IdentityPin, IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest, KeysChangesResponse
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest, KeysClaimResponse
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest, KeysUploadResponse
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest, SendToDeviceResponse
from matrix_e2e_keys.endpoints.client_server.signatures_upload import (
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
)
from matrix_e2e_keys.endpoints.client_server.sync import DeviceLists, SyncKeys
from matrix_e2e_keys.endpoints.dialects import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    ENDPOINTS,
    FEDERATION_V1,
    KEY_V2,
    Authentication,
    Dialect,
    Endpoint,
    Match,
    find_endpoint,
)
from matrix_e2e_keys.endpoints.federation.edus import (
    DeviceListUpdate,
    DirectToDevice,
    Edu,
    SigningKeyUpdate,
    UnknownEdu,
    read_edu,
    read_edus,
)
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest, SendTransactionResponse
from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest, ServerKeysResponse
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesRequest, UserDevicesResponse
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimRequest, UserKeysClaimResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.messages import BodyRequest, Request, Response
from matrix_e2e_keys.endpoints.routing import IncomingRequest, read_request
from matrix_e2e_keys.endpoints.user_interactive import AuthenticationFlow, UserInteractiveAuth
from matrix_e2e_keys.errors import (
    E2EKeysError,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    VerificationError,
)
from matrix_e2e_keys.identifiers import (
    DeviceId,
    RoomId,
    ServerName,
    UserId,
    is_strict_user_id,
    is_user_id,
    parse_device_id,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)
from matrix_e2e_keys.json_trees import MAX_SAFE_INTEGER, JsonLimits, JsonObject, JsonValue
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey, Ed25519Signature, KeyId
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.models.one_time_keys import OneTimeKey, VerifiedOneTimeKey
from matrix_e2e_keys.models.server_keys import OldVerifyKey, ServerKeys, VerifiedServerKeys
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.outcome import Notice, Partition, Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, verify_json
from matrix_e2e_keys.signing.signers import (
    Ed25519SecretKey,
    NaclSigner,
    SignedjsonSigner,
    Signer,
    VodozemacSigner,
    add_signature,
    sign_json,
)
from matrix_e2e_keys.signing.verifiers import (
    LIBSODIUM,
    CachingVerifier,
    ExecutorVerifier,
    LibsodiumVerifier,
    SignatureCheck,
    Verifier,
)

__version__: Final = "0.1.0"

__all__ = [
    "CLIENT_R0",
    "CLIENT_V2_ALPHA",
    "CLIENT_V3",
    "CURVE25519",
    "ED25519",
    "ENDPOINTS",
    "FEDERATION_V1",
    "KEY_V2",
    "LIBSODIUM",
    "MAX_SAFE_INTEGER",
    "MEGOLM_V1",
    "OLM_V1",
    "SIGNED_CURVE25519",
    "TRANSITIONS",
    "Authentication",
    "AuthenticationFlow",
    "BodyRequest",
    "BootstrapState",
    "BootstrapStep",
    "CachingVerifier",
    "ChangeKind",
    "ClaimPlanner",
    "ClaimResult",
    "CrossSigningBootstrap",
    "CrossSigningKey",
    "CrossSigningKeys",
    "CrossSigningSecrets",
    "Curve25519PublicKey",
    "DeviceId",
    "DeviceKeys",
    "DeviceListTracker",
    "DeviceListUpdate",
    "DeviceLists",
    "DeviceSigningUploadRequest",
    "DeviceSigningUploadResponse",
    "DeviceTrust",
    "DeviceUploadPlan",
    "DeviceUploadVerdict",
    "Dialect",
    "DirectToDevice",
    "E2EKeysError",
    "Ed25519PublicKey",
    "Ed25519SecretKey",
    "Ed25519Signature",
    "Edu",
    "Endpoint",
    "ExecutorVerifier",
    "HttpRequest",
    "HttpResponse",
    "IdentityEvent",
    "IdentityPin",
    "IdentityState",
    "IncomingRequest",
    "JsonLimits",
    "JsonObject",
    "JsonValue",
    "KeyChange",
    "KeyId",
    "KeyMachine",
    "KeyName",
    "KeySupply",
    "KeyUse",
    "KeysChangesRequest",
    "KeysChangesResponse",
    "KeysClaimRequest",
    "KeysClaimResponse",
    "KeysQueryRequest",
    "KeysQueryResponse",
    "KeysUploadRequest",
    "KeysUploadResponse",
    "KnownUser",
    "KnownUsers",
    "LibsodiumVerifier",
    "LinkVerdict",
    "LocalProtocolError",
    "LocalTrust",
    "MachineRequest",
    "MachineResponse",
    "Match",
    "MatrixError",
    "NaclSigner",
    "NeededKeys",
    "Notice",
    "OldVerifyKey",
    "OneTimeKey",
    "OneTimeKeyConflict",
    "OutgoingClaim",
    "OutgoingQuery",
    "OutgoingRequest",
    "OutgoingSignatures",
    "OutgoingUpload",
    "OwnIdentity",
    "OwnSigning",
    "Partition",
    "ProblemKind",
    "QueryResult",
    "Reason",
    "Received",
    "RecipientPolicy",
    "RecipientProblem",
    "Recipients",
    "RefusedSignatures",
    "Rejection",
    "RemoteProtocolError",
    "Request",
    "Response",
    "RoomId",
    "SendToDeviceRequest",
    "SendToDeviceResponse",
    "SendTransactionRequest",
    "SendTransactionResponse",
    "ServerKeys",
    "ServerKeysRequest",
    "ServerKeysResponse",
    "ServerName",
    "SignatureCheck",
    "SignatureConfirmation",
    "SignatureFailure",
    "SignatureQueue",
    "SignaturesUploadRequest",
    "SignaturesUploadResponse",
    "SignaturesUploadResult",
    "SignedJson",
    "SignedjsonSigner",
    "Signer",
    "SigningKeyUpdate",
    "SupplyPolicy",
    "SyncKeys",
    "TrustLink",
    "TrustProof",
    "UnknownEdu",
    "UnservedSignature",
    "UploadedSignature",
    "UserAnswer",
    "UserDevice",
    "UserDevicesRequest",
    "UserDevicesResponse",
    "UserId",
    "UserIdentity",
    "UserInteractiveAuth",
    "UserKeysClaimRequest",
    "UserKeysClaimResponse",
    "UserKeysQueryRequest",
    "UserKeysQueryResponse",
    "VerificationError",
    "VerifiedDevice",
    "VerifiedOneTimeKey",
    "VerifiedServerKeys",
    "Verifier",
    "VodozemacSigner",
    "WithheldCode",
    "__version__",
    "add_signature",
    "check_claim",
    "check_query",
    "check_signatures_upload",
    "confirm_signatures",
    "device_trust",
    "encode_canonical_json",
    "explain_device",
    "explain_user",
    "find_endpoint",
    "is_strict_user_id",
    "is_user_id",
    "merge_signatures",
    "one_time_key_conflict",
    "parse_device_id",
    "parse_json",
    "parse_room_id",
    "parse_server_name",
    "parse_user_id",
    "plan_device_upload",
    "read_edu",
    "read_edus",
    "read_request",
    "select_recipients",
    "server_name_of",
    "sign_json",
    "sign_own_master_key",
    "verify_json",
    "verify_served_device",
]
