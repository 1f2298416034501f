"""Matrix end-to-end-encryption keys: models, signatures, endpoints, checks. No I/O.

Everything a user needs is importable from here. The modules below exist for those who read the code.
"""

from typing import Final

from matrix_e2e_keys.algorithms import CURVE25519, ED25519, MEGOLM_V1, OLM_V1, SIGNED_CURVE25519
from matrix_e2e_keys.canonical_json import encode_canonical_json, parse_json
from matrix_e2e_keys.client.query import QueryResult, UserAnswer, check_query
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
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
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.outcome import Notice, Partition, Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, verify_json
from matrix_e2e_keys.signing.signers import (
    Ed25519SecretKey,
    NaclSigner,
    SignedjsonSigner,
    Signer,
    VodozemacSigner,
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
    "CURVE25519",
    "ED25519",
    "LIBSODIUM",
    "MAX_SAFE_INTEGER",
    "MEGOLM_V1",
    "OLM_V1",
    "SIGNED_CURVE25519",
    "CachingVerifier",
    "CrossSigningKey",
    "Curve25519PublicKey",
    "DeviceId",
    "DeviceKeys",
    "E2EKeysError",
    "Ed25519PublicKey",
    "Ed25519SecretKey",
    "Ed25519Signature",
    "ExecutorVerifier",
    "JsonLimits",
    "JsonObject",
    "JsonValue",
    "KeyId",
    "KeysQueryRequest",
    "KeysQueryResponse",
    "LibsodiumVerifier",
    "LocalProtocolError",
    "NaclSigner",
    "Notice",
    "OneTimeKey",
    "OwnIdentity",
    "Partition",
    "QueryResult",
    "Reason",
    "Rejection",
    "RemoteProtocolError",
    "RoomId",
    "ServerName",
    "SignatureCheck",
    "SignedJson",
    "SignedjsonSigner",
    "Signer",
    "UserAnswer",
    "UserId",
    "UserIdentity",
    "VerificationError",
    "VerifiedDevice",
    "Verifier",
    "VodozemacSigner",
    "__version__",
    "check_query",
    "encode_canonical_json",
    "is_strict_user_id",
    "is_user_id",
    "parse_device_id",
    "parse_json",
    "parse_room_id",
    "parse_server_name",
    "parse_user_id",
    "server_name_of",
    "sign_json",
    "verify_json",
]
