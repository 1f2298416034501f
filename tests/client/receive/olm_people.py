"""People who write to each other with Olm, for tests: real accounts, real messages, and what is known of them.

Bob is oneself: ``BOB`` is this device, ``BOBS_TABLET`` another one of his. Alice writes to him from ``PHONE``, and has a
``LAPTOP``; ``EVE`` is somebody else. ``letter()`` is a message that is as it should be::

    it = letter(PHONE)                       # to BOB
    it.payload["recipient"] = "@eve:e"       # change one thing of what is inside, or of it.event around it
    it.judged(known=known(ALICE, PHONE))     # an OlmJudgment

The ratchet is not turned again for what was changed: whoever sends a message can put anything inside.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import vodozemac
from attrs import define, frozen

from matrix_e2e_keys.client.queries.query import check_query
from matrix_e2e_keys.client.receive.olm_events import check_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import OlmJudgment
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.events.encrypted import ENCRYPTED, OlmCiphertext, OlmEncryptedContent
from matrix_e2e_keys.events.payloads import OlmPayload
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.signers import Signer, VodozemacSigner, add_signature, sign_json
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer


@frozen(kw_only=True, eq=False)
class Person:
    """A user at one device.

    Attributes:
        user: the user, with a cross-signing identity.
        device_id: the device.
        account: its Olm account.
    """

    user: SampleUser
    device_id: str
    account: vodozemac.Account

    @property
    def user_id(self) -> str:
        return self.user.user_id

    @property
    def curve25519_key(self) -> Curve25519PublicKey:
        return Curve25519PublicKey.from_base64(self.account.curve25519_key.to_base64())

    @property
    def ed25519_key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_base64(self.account.ed25519_key.to_base64())

    @property
    def signer(self) -> VodozemacSigner:
        return VodozemacSigner.of(self.account, self.device_id)

    def keys(
        self,
        *,
        cross_signed_by: SampleUser | None = None,
        curve25519_key: Curve25519PublicKey | None = None,
        extra: dict[str, object] | None = None,
        device_id: str | None = None,
    ) -> DeviceKeys:
        """The device keys, signed by the device; also by an identity, and with something else in them, if told."""
        device_id = device_id or self.device_id
        made = DeviceKeys.build(
            user_id=self.user_id,
            device_id=device_id,
            curve25519_key=curve25519_key or self.curve25519_key,
            signer=VodozemacSigner.of(self.account, device_id),
            extra=extra,
        )
        if cross_signed_by is None:
            return made
        signer = cross_signed_by.secret("self_signing").cross_signer()
        return made.with_signed(add_signature(made.signed, entity=self.user_id, signer=signer))

    @property
    def signed_keys(self) -> DeviceKeys:
        """The device keys, also signed by the user's identity."""
        return self.keys(cross_signed_by=self.user)

    @property
    def identity(self) -> UserIdentity:
        """The identity of its user."""
        return UserIdentity.verify(master_key=self.user.master_key, self_signing_key=self.user.self_signing_key)

    @property
    def device(self) -> VerifiedDevice:
        """The device, as one knows one's own."""
        return self.signed_keys.verify()


def person(user: SampleUser, device_id: str) -> Person:
    return Person(user=user, device_id=device_id, account=vodozemac.Account())


ALICE_USER = SampleUser("@alice:a.example")
BOB_USER = SampleUser("@bob:b.example")
EVE_USER = SampleUser("@eve:e.example")
PHONE, LAPTOP = person(ALICE_USER, "PHONE"), person(ALICE_USER, "LAPTOP")
BOB, BOBS_TABLET = person(BOB_USER, "DESK"), person(BOB_USER, "TABLET")
EVE = person(EVE_USER, "PHONE")

BOBS_IDENTITY: OwnIdentity = UserIdentity.verify(
    master_key=BOB_USER.master_key,
    self_signing_key=BOB_USER.self_signing_key,
    user_signing_key=BOB_USER.user_signing_key,
).confirm_as_own(master_key=BOB_USER.master_public_key)


# --------------------------------------------------------------------------------------------------------------
# What is known of users
# --------------------------------------------------------------------------------------------------------------


def learned(
    before: Mapping[str, KnownUser],
    user: SampleUser,
    devices: Iterable[DeviceKeys],
    *,
    verified: bool = False,
    with_identity: bool = True,
) -> Mapping[str, KnownUser]:
    """What Bob knows after an answer to a query about a user: the user has these devices, whatever was before.

    ``verified``: Bob has signed the user's master key; or it is his own, and he has confirmed it.
    """
    body: dict[str, Any] = keys_query_answer([(user, devices)], viewer=BOB_USER.user_id)
    if not with_identity:
        body = {"device_keys": body["device_keys"]}
    elif verified and user.user_id != BOB_USER.user_id:
        body["master_keys"][user.user_id] = BOB_USER.verified(user.master_key).to_json()
    own = BOBS_IDENTITY if verified or user.user_id != BOB_USER.user_id else None
    request = KeysQueryRequest.for_users([user.user_id])
    result = check_query(request, KeysQueryResponse.from_json(body), own=own, known=before)
    return {**before, **result.known}


def known(user: SampleUser, *devices: DeviceKeys, verified: bool = False) -> Mapping[str, KnownUser]:
    """What Bob knows of a user whom he has asked about once."""
    return learned({}, user, devices, verified=verified)


# --------------------------------------------------------------------------------------------------------------
# Letters
# --------------------------------------------------------------------------------------------------------------


@define(kw_only=True)
class Letter:
    """A message from one device to another: the event around it, and what the ratchet brings out of it.

    Both are plain JSON that may be changed.
    """

    event: dict[str, Any]
    payload: dict[str, Any]

    @property
    def received(self) -> ToDeviceEvent:
        """The event, read."""
        return ToDeviceEvent.from_json(self.event)

    @property
    def plaintext(self) -> bytes:
        return json.dumps(self.payload, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def judged(
        self,
        *,
        own: Person = BOB,
        known: Mapping[str, KnownUser] | None = None,
        verifier: Verifier = LIBSODIUM,
    ) -> OlmJudgment:
        """What the recipient makes of it."""
        users = {} if known is None else known
        return check_olm_event(self.received, self.plaintext, own=own.device, known=users, verifier=verifier)


@cache
def session(sender: Person, recipient: Person) -> vodozemac.Session:
    """A session that the sender has opened, and in which the recipient has not answered yet."""
    recipient.account.generate_one_time_keys(1)
    (one_time_key,) = recipient.account.one_time_keys.values()
    recipient.account.mark_keys_as_published()
    return sender.account.create_outbound_session(recipient.account.curve25519_key, one_time_key)


def sealed_event(sender: Person, recipient: Person, plaintext: bytes) -> ToDeviceEvent:
    """An event from one device to another. Its message is a pre-key message."""
    message = OlmCiphertext.from_parts(*session(sender, recipient).encrypt(plaintext).to_parts())
    content = OlmEncryptedContent.build(sender_key=sender.curve25519_key, messages={recipient.curve25519_key: message})
    return ToDeviceEvent(type=ENCRYPTED, sender=sender.user_id, content=content.to_json())


def letter(
    sender: Person = PHONE,
    recipient: Person = BOB,
    *,
    keys: DeviceKeys | None = None,
    event_type: str = "m.dummy",
    content: Mapping[str, Any] | None = None,
) -> Letter:
    """A letter that is as it should be.

    ``keys``: the device keys that the sender sends along; by default the ones its identity signed.
    """
    payload = OlmPayload.build(
        event_type=event_type,
        content={} if content is None else content,
        sender=(keys or sender.signed_keys).verify(),
        recipient=recipient.signed_keys.verify(identity=recipient.identity),
    )
    event = sealed_event(sender, recipient, payload.encode())
    return Letter(event=event.to_json(), payload=payload.to_json())


def without_keys(it: Letter) -> Letter:
    """The letter of an older client, which does not send its device keys along."""
    return Letter(
        event=it.event, payload={name: value for name, value in it.payload.items() if name != "sender_device_keys"}
    )


def signed_anew(obj: dict[str, Any], signer: Signer, *, entity: str | None = None) -> dict[str, Any]:
    """An object that was changed, with a new signature and no other."""
    unsigned = copy.deepcopy({name: value for name, value in obj.items() if name != "signatures"})
    return sign_json(unsigned, entity=entity or obj["user_id"], signer=signer)
