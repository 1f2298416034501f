"""The homeserver's half: decisions as values, and `KeyDirectory`, the whole of them in memory. No I/O.

Everything that an author of a homeserver needs is importable from here, beside what the package itself offers.
"""

from matrix_e2e_keys.homeserver.admission.authentication import (
    AuthenticationReason,
    MayStore,
    NoOp,
    RequireAuthentication,
    UploadKind,
    authentication_needed,
)
from matrix_e2e_keys.homeserver.admission.device_signing import decide_device_signing_upload
from matrix_e2e_keys.homeserver.admission.devices import decide_delete_devices, decide_log_in, decide_rename
from matrix_e2e_keys.homeserver.admission.keys_upload import UploadLookup, UploadView, decide_keys_upload, upload_lookup
from matrix_e2e_keys.homeserver.admission.signature_cases import SignatureJudgment
from matrix_e2e_keys.homeserver.admission.signatures import SignaturesDecision, decide_signatures_upload, signed_users
from matrix_e2e_keys.homeserver.claims.claim_ledger import ClaimLedger, ClaimsSpent
from matrix_e2e_keys.homeserver.claims.local_claims import (
    DeviceKeyPool,
    HandedOutKey,
    KeyWanted,
    LocalClaims,
    PooledKey,
    claim_order,
    decide_claims,
)
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.device_streams.changes import device_list_changes, sync_keys
from matrix_e2e_keys.homeserver.device_streams.outbox import DeviceListOutbox
from matrix_e2e_keys.homeserver.device_streams.outbox_edus import edus_of
from matrix_e2e_keys.homeserver.device_streams.outbox_values import DevicePoke, IdentityPoke, OutboundUpdates, Poke
from matrix_e2e_keys.homeserver.device_streams.remote_lists import RemoteDeviceLists
from matrix_e2e_keys.homeserver.device_streams.remote_values import (
    EduOutcome,
    EduReason,
    EduVerdict,
    ListNotice,
    Resync,
)
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.homeserver.directory.known_servers import KnownServers
from matrix_e2e_keys.homeserver.directory.local_federation import LocalFederation
from matrix_e2e_keys.homeserver.directory.memory_store import MemoryStore
from matrix_e2e_keys.homeserver.directory.state import Authenticate
from matrix_e2e_keys.homeserver.directory.values import Exchange, ServerRequest, SyncAnswer
from matrix_e2e_keys.homeserver.effects import (
    NOTICES,
    DeleteDevice,
    DeviceChanged,
    DropCrossSigningKey,
    DropSignaturesBy,
    DropSignaturesOn,
    Effect,
    ForgetOneTimeKeys,
    IdentityChanged,
    IfUnchanged,
    MarkFallbackKeyUsed,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDevice,
    StoreDeviceKeys,
    StoreFallbackKey,
    StoreOneTimeKeys,
    StoreSignature,
    TakeOneTimeKey,
)
from matrix_e2e_keys.homeserver.fan_out.claim_plan import (
    ClaimAnswer,
    ClaimPlan,
    IncomingClaim,
    plan_claim,
    plan_user_keys_claim,
    user_keys_claimed,
)
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure
from matrix_e2e_keys.homeserver.fan_out.federation_answers import decide_user_devices, decide_user_keys_query
from matrix_e2e_keys.homeserver.fan_out.query_plan import QueryAnswer, QueryPlan, plan_query
from matrix_e2e_keys.homeserver.federation_auth.authorization import XMatrixClaim, read_authorization, sign_request
from matrix_e2e_keys.homeserver.federation_auth.header import XMatrixHeader, parse_authorization
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Limits, Policy
from matrix_e2e_keys.homeserver.remote_identity import RemoteIdentity, verified_identity
from matrix_e2e_keys.homeserver.stored_keys import (
    USAGES,
    DeviceRecord,
    FallbackKeyRecord,
    StoredKey,
    UserKeys,
    UserSignature,
    key_digest,
)
from matrix_e2e_keys.homeserver.visibility import (
    ServerViewer,
    UserViewer,
    Viewer,
    visible_device,
    visible_key,
    visible_one_time_key,
)

__all__ = [
    "COMPAT",
    "NOTICES",
    "SPEC",
    "STRICT",
    "USAGES",
    "Authenticate",
    "AuthenticationReason",
    "ClaimAnswer",
    "ClaimLedger",
    "ClaimPlan",
    "ClaimsSpent",
    "Decision",
    "DeleteDevice",
    "DeviceChanged",
    "DeviceKeyPool",
    "DeviceListOutbox",
    "DevicePoke",
    "DeviceRecord",
    "DropCrossSigningKey",
    "DropSignaturesBy",
    "DropSignaturesOn",
    "EduOutcome",
    "EduReason",
    "EduVerdict",
    "Effect",
    "Exchange",
    "FallbackKeyRecord",
    "ForgetOneTimeKeys",
    "HandedOutKey",
    "IdentityChanged",
    "IdentityPoke",
    "IfUnchanged",
    "IncomingClaim",
    "KeyDirectory",
    "KeyWanted",
    "KnownServers",
    "Limits",
    "ListNotice",
    "LocalClaims",
    "LocalFederation",
    "MarkFallbackKeyUsed",
    "MayStore",
    "MemoryStore",
    "NoOp",
    "OutboundUpdates",
    "Poke",
    "Policy",
    "PooledKey",
    "QueryAnswer",
    "QueryPlan",
    "RemoteDeviceLists",
    "RemoteIdentity",
    "Requester",
    "RequireAuthentication",
    "Resync",
    "ServerFailure",
    "ServerRequest",
    "ServerViewer",
    "SignatureJudgment",
    "SignaturesDecision",
    "SignedOthers",
    "StoreCrossSigningKey",
    "StoreDevice",
    "StoreDeviceKeys",
    "StoreFallbackKey",
    "StoreOneTimeKeys",
    "StoreSignature",
    "StoredKey",
    "SyncAnswer",
    "TakeOneTimeKey",
    "UploadKind",
    "UploadLookup",
    "UploadView",
    "UserKeys",
    "UserSignature",
    "UserViewer",
    "Viewer",
    "XMatrixClaim",
    "XMatrixHeader",
    "authentication_needed",
    "claim_order",
    "decide_claims",
    "decide_delete_devices",
    "decide_device_signing_upload",
    "decide_keys_upload",
    "decide_log_in",
    "decide_rename",
    "decide_signatures_upload",
    "decide_user_devices",
    "decide_user_keys_query",
    "device_list_changes",
    "edus_of",
    "key_digest",
    "parse_authorization",
    "plan_claim",
    "plan_query",
    "plan_user_keys_claim",
    "read_authorization",
    "sign_request",
    "signed_users",
    "sync_keys",
    "upload_lookup",
    "user_keys_claimed",
    "verified_identity",
    "visible_device",
    "visible_key",
    "visible_one_time_key",
]
