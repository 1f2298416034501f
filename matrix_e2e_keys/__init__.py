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
from matrix_e2e_keys.client.machine.values import (
    MachineRequest,
    MachineResponse,
    OutgoingRequest,
    Received,
    ReceivedOlmEvent,
)
from matrix_e2e_keys.client.queries.device_lists import DeviceListTracker, OutgoingQuery
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.queries.query import QueryResult, UserAnswer, check_query
from matrix_e2e_keys.client.receive.accepted_answers import AcceptedForward, AcceptedSecret
from matrix_e2e_keys.client.receive.history_sharing import build_room_key_bundle
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.key_requests import KeyRequests, OutgoingMessages
from matrix_e2e_keys.client.receive.key_sharing import (
    SharingDecision,
    SharingVerdict,
    judge_key_request,
    judge_secret_request,
)
from matrix_e2e_keys.client.receive.megolm_events import SenderPolicy, check_megolm_event, open_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import DecryptedRoomEvent, MegolmCheck, MegolmJudgment
from matrix_e2e_keys.client.receive.olm_events import check_olm_event, open_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent, OlmCheck, OlmJudgment
from matrix_e2e_keys.client.receive.received_sessions import (
    judge_room_key,
    session_from_forward,
    session_from_import,
    session_of_own,
    sessions_from_bundle,
)
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard, ReplayVerdict
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction, RoomKeyDecision
from matrix_e2e_keys.client.receive.sender_values import OlmSender, SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.receive.to_device import (
    EncryptedToDevice,
    PlainToDevice,
    SortedToDevice,
    read_inside,
    sort_to_device,
)
from matrix_e2e_keys.client.rooms.key_shares import KeyShare
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.room_encryption import (
    EncryptionChange,
    HistoryVisibility,
    RoomEncryption,
    RoomEncryptionChange,
    shares_history,
)
from matrix_e2e_keys.client.rooms.rotation import RotationKind, RotationReason, rotation_reasons
from matrix_e2e_keys.client.rooms.sharing import NoOlmMemory, SharingPlan, plan_sharing
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
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import (
    EncryptedContent,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
    UnsupportedEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.encrypted_files import EncryptedFile, FileHashes, FileKey
from matrix_e2e_keys.events.judgments import FailedCheck, Judgment
from matrix_e2e_keys.events.key_bundles import (
    BUNDLE_LIMITS,
    MAX_BUNDLE_ENTRIES,
    HistoricRoomKey,
    RoomKeyBundle,
    RoomKeyBundleContent,
)
from matrix_e2e_keys.events.key_requests import RequestAction, RequestedKeyInfo, RoomKeyRequestContent
from matrix_e2e_keys.events.olm_formats import (
    MegolmSessionKey,
    OlmMessageType,
    PreKeyHeader,
    megolm_message_index,
    read_megolm_session_key,
    read_pre_key_header,
)
from matrix_e2e_keys.events.payloads import MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent, ToDeviceEvents
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent, SessionKeyRecord
from matrix_e2e_keys.events.secrets import DummyContent, SecretName, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.to_device_batches import to_device_requests
from matrix_e2e_keys.events.to_device_types import (
    ENCRYPTED_ONLY,
    PLAINTEXT_ALLOWED,
    TO_DEVICE_CONTENTS,
    ToDeviceContent,
    read_to_device_content,
)
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode, WithheldNotice
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
    "BUNDLE_LIMITS",
    "CLIENT_R0",
    "CLIENT_V2_ALPHA",
    "CLIENT_V3",
    "CURVE25519",
    "ED25519",
    "ENCRYPTED_ONLY",
    "ENDPOINTS",
    "FEDERATION_V1",
    "KEY_V2",
    "LIBSODIUM",
    "MAX_BUNDLE_ENTRIES",
    "MAX_SAFE_INTEGER",
    "MEGOLM_V1",
    "OLM_V1",
    "PLAINTEXT_ALLOWED",
    "SIGNED_CURVE25519",
    "TO_DEVICE_CONTENTS",
    "TRANSITIONS",
    "AcceptedForward",
    "AcceptedSecret",
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
    "DecryptedOlmEvent",
    "DecryptedRoomEvent",
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
    "DummyContent",
    "E2EKeysError",
    "Ed25519PublicKey",
    "Ed25519SecretKey",
    "Ed25519Signature",
    "Edu",
    "EncryptedContent",
    "EncryptedFile",
    "EncryptedToDevice",
    "EncryptionChange",
    "Endpoint",
    "EventContent",
    "ExecutorVerifier",
    "FailedCheck",
    "FileHashes",
    "FileKey",
    "ForwardedRoomKeyContent",
    "HistoricRoomKey",
    "HistoryVisibility",
    "HttpRequest",
    "HttpResponse",
    "IdentityEvent",
    "IdentityPin",
    "IdentityState",
    "InboundSession",
    "IncomingRequest",
    "JsonLimits",
    "JsonObject",
    "JsonValue",
    "Judgment",
    "KeyChange",
    "KeyId",
    "KeyMachine",
    "KeyName",
    "KeyRequests",
    "KeyShare",
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
    "MegolmCheck",
    "MegolmEncryptedContent",
    "MegolmJudgment",
    "MegolmPayload",
    "MegolmSessionKey",
    "NaclSigner",
    "NeededKeys",
    "NoOlmMemory",
    "Notice",
    "OldVerifyKey",
    "OlmCheck",
    "OlmCiphertext",
    "OlmEncryptedContent",
    "OlmJudgment",
    "OlmMessageType",
    "OlmPayload",
    "OlmSender",
    "OneTimeKey",
    "OneTimeKeyConflict",
    "OutboundSession",
    "OutgoingClaim",
    "OutgoingMessages",
    "OutgoingQuery",
    "OutgoingRequest",
    "OutgoingSignatures",
    "OutgoingUpload",
    "OwnIdentity",
    "OwnSigning",
    "Partition",
    "PlainToDevice",
    "PreKeyHeader",
    "ProblemKind",
    "QueryResult",
    "Reason",
    "Received",
    "ReceivedOlmEvent",
    "RecipientPolicy",
    "RecipientProblem",
    "Recipients",
    "RefusedSignatures",
    "Rejection",
    "RemoteProtocolError",
    "ReplayGuard",
    "ReplayVerdict",
    "Request",
    "RequestAction",
    "RequestedKeyInfo",
    "Response",
    "RoomEncryption",
    "RoomEncryptionChange",
    "RoomEvent",
    "RoomId",
    "RoomKeyAction",
    "RoomKeyBundle",
    "RoomKeyBundleContent",
    "RoomKeyContent",
    "RoomKeyDecision",
    "RoomKeyRequestContent",
    "RoomKeyWithheldContent",
    "RotationKind",
    "RotationReason",
    "SecretName",
    "SecretRequestContent",
    "SecretSendContent",
    "SendToDeviceRequest",
    "SendToDeviceResponse",
    "SendTransactionRequest",
    "SendTransactionResponse",
    "SenderPolicy",
    "SenderTrust",
    "ServerKeys",
    "ServerKeysRequest",
    "ServerKeysResponse",
    "ServerName",
    "SessionKeyRecord",
    "SessionSource",
    "SharingDecision",
    "SharingPlan",
    "SharingVerdict",
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
    "SortedToDevice",
    "SupplyPolicy",
    "SyncKeys",
    "ToDeviceContent",
    "ToDeviceEvent",
    "ToDeviceEvents",
    "TrustLink",
    "TrustProof",
    "UnknownEdu",
    "UnservedSignature",
    "UnsupportedEncryptedContent",
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
    "WithheldNotice",
    "__version__",
    "add_signature",
    "build_room_key_bundle",
    "check_claim",
    "check_megolm_event",
    "check_olm_event",
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
    "judge_key_request",
    "judge_room_key",
    "judge_secret_request",
    "megolm_message_index",
    "merge_signatures",
    "one_time_key_conflict",
    "open_megolm_event",
    "open_olm_event",
    "parse_device_id",
    "parse_json",
    "parse_room_id",
    "parse_server_name",
    "parse_user_id",
    "plan_device_upload",
    "plan_sharing",
    "read_edu",
    "read_edus",
    "read_encrypted_content",
    "read_inside",
    "read_megolm_session_key",
    "read_pre_key_header",
    "read_request",
    "read_to_device_content",
    "reassess_sender",
    "rotation_reasons",
    "select_recipients",
    "server_name_of",
    "session_from_forward",
    "session_from_import",
    "session_of_own",
    "sessions_from_bundle",
    "shares_history",
    "sign_json",
    "sign_own_master_key",
    "sort_to_device",
    "to_device_requests",
    "verify_json",
    "verify_served_device",
]
