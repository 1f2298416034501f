"""Real messages and session keys, made by vodozemac, for the tests of the floor of events and above."""

from __future__ import annotations

import hashlib
from functools import cache

import vodozemac
from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.events.encrypted import OlmCiphertext
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey

ROOM = "!room:a.example"


def raw(text: str) -> bytes:
    """The bytes of a base64 text that is one."""
    decoded = unpadded_base64.decode(text)
    assert decoded is not None
    return decoded


def base64(data: bytes) -> str:
    return unpadded_base64.encode(data)


def curve25519_of(account: vodozemac.Account) -> Curve25519PublicKey:
    return Curve25519PublicKey.from_base64(account.curve25519_key.to_base64())


def ed25519_of(account: vodozemac.Account) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_base64(account.ed25519_key.to_base64())


def sealed_by(session: vodozemac.Session, plaintext: bytes) -> OlmCiphertext:
    """What a session encrypts."""
    return OlmCiphertext.from_parts(*session.encrypt(plaintext).to_parts())


def olm_message(message: OlmCiphertext) -> vodozemac.AnyOlmMessage:
    return vodozemac.AnyOlmMessage.from_parts(int(message.message_type), message.message)


def session_id_of(identity_key: bytes, base_key: bytes, one_time_key: bytes) -> str:
    """The id of an Olm session, as vodozemac makes it of the three keys."""
    return base64(hashlib.sha256(identity_key + base_key + one_time_key).digest())


@frozen(kw_only=True)
class OlmTalk:
    """Two accounts, a session between them, and a message of each type."""

    alice: vodozemac.Account
    bob: vodozemac.Account
    one_time_key: Curve25519PublicKey
    session: vodozemac.Session
    pre_key: OlmCiphertext
    normal: OlmCiphertext


@cache
def olm_talk() -> OlmTalk:
    alice, bob = vodozemac.Account(), vodozemac.Account()
    bob.generate_one_time_keys(3)
    one_time_key = list(bob.one_time_keys.values())[1]
    session = alice.create_outbound_session(bob.curve25519_key, one_time_key)
    pre_key = sealed_by(session, b'{"a":"pre-key"}')
    message = vodozemac.PreKeyMessage.from_base64(pre_key.body)
    answering, plaintext = bob.create_inbound_session(alice.curve25519_key, message)
    assert plaintext == b'{"a":"pre-key"}'
    return OlmTalk(
        alice=alice,
        bob=bob,
        one_time_key=Curve25519PublicKey.from_base64(one_time_key.to_base64()),
        session=session,
        pre_key=pre_key,
        normal=sealed_by(answering, b'{"a":"normal"}'),
    )
