"""What the checks around the ratchets cost, next to what the ratchets cost.

    python tests/bench/bench_events.py [--messages N] [--rounds N]

Ratios are those of pairs in one process; 1.00 is vodozemac decrypting the same Megolm messages, from their base64 on.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable

import vodozemac

from matrix_e2e_keys import (
    Curve25519PublicKey,
    DeviceKeys,
    KnownUser,
    MegolmEncryptedContent,
    MegolmPayload,
    OlmCiphertext,
    OlmEncryptedContent,
    OlmPayload,
    ReplayGuard,
    RoomEvent,
    RoomKeyContent,
    ToDeviceEvent,
    VerifiedDevice,
    VodozemacSigner,
    check_megolm_event,
    check_olm_event,
    judge_room_key,
    open_megolm_event,
    open_olm_event,
    read_megolm_session_key,
)

ROOM = "!room:a.example"


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def new_device(user_id: str, device_id: str) -> tuple[vodozemac.Account, VerifiedDevice]:
    account = vodozemac.Account()
    keys = DeviceKeys.build(
        user_id=user_id,
        device_id=device_id,
        curve25519_key=Curve25519PublicKey.from_base64(account.curve25519_key.to_base64()),
        signer=VodozemacSigner.of(account, device_id),
    )
    return account, keys.verify()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    alice_account, alice = new_device("@alice:a.example", "PHONE")
    bob_account, bob = new_device("@bob:b.example", "LAPTOP")
    known = {alice.user_id: KnownUser(user_id=alice.user_id, devices={"PHONE": alice})}
    bob_account.generate_one_time_keys(1)
    (one_time_key,) = bob_account.one_time_keys.values()
    olm = alice_account.create_outbound_session(bob_account.curve25519_key, one_time_key)
    megolm = vodozemac.GroupSession()
    session_key = megolm.session_key.to_base64()
    room_key = RoomKeyContent.build(room_id=ROOM, session_key=session_key, shared_history=False)

    payload = OlmPayload.build(event_type="m.room_key", content=room_key.to_json(), sender=alice, recipient=bob)
    plaintext = payload.encode()
    letters = []
    for _ in range(options.messages):
        message = OlmCiphertext.from_parts(*olm.encrypt(plaintext).to_parts())
        content = OlmEncryptedContent.build(sender_key=alice.curve25519_key, messages={bob.curve25519_key: message})
        letters.append({"type": "m.room.encrypted", "sender": alice.user_id, "content": content.to_json()})
    events = [ToDeviceEvent.from_json(letter) for letter in letters]
    judged = check_olm_event(events[0], plaintext, own=bob, known=known).require()
    inbound = judge_room_key(judged, held=None).session

    said = MegolmPayload.build(event_type="m.room.message", content={"body": "Hello " * 20}, room_id=ROOM).encode()
    messages = [
        {
            "type": "m.room.encrypted",
            "sender": alice.user_id,
            "event_id": f"${number}",
            "origin_server_ts": number,
            "room_id": ROOM,
            "content": MegolmEncryptedContent.build(
                session_id=megolm.session_id, ciphertext=megolm.encrypt(said).to_base64(), relates_to=None
            ).to_json(),
        }
        for number in range(options.messages)
    ]
    ratchet = vodozemac.InboundGroupSession(vodozemac.SessionKey(session_key))

    def decrypt() -> None:
        for message in messages:
            ratchet.decrypt(vodozemac.MegolmMessage.from_base64(message["content"]["ciphertext"]))

    def read_room_events() -> list[RoomEvent]:
        return [RoomEvent.from_json(message) for message in messages]

    def check_room_events() -> None:
        guard = ReplayGuard()
        for number, event in enumerate(read_room_events()):
            open_megolm_event(event)
            check_megolm_event(event, said, message_index=number, session=inbound, known=known, guard=guard).require()

    def check_letters() -> None:
        for letter in letters:
            event = ToDeviceEvent.from_json(letter)
            open_olm_event(event, own=bob)
            check_olm_event(event, plaintext, own=bob, known=known).require()

    works: dict[str, Callable[[], object]] = {
        "read a room event": read_room_events,
        "open and check a room event": check_room_events,
        "open and check an Olm event": check_letters,
        "judge a room key": lambda: [judge_room_key(judged, held=inbound) for _ in messages],
        "read a session key": lambda: [read_megolm_session_key(session_key) for _ in messages],
        "build an Olm payload": lambda: [
            OlmPayload.build(event_type="m.dummy", content={}, sender=alice, recipient=bob).encode() for _ in messages
        ],
        "build a Megolm payload": lambda: [
            MegolmPayload.build(event_type="m.room.message", content={"body": "Hello " * 20}, room_id=ROOM).encode()
            for _ in messages
        ],
        "verify a device": lambda: [alice.keys.verify() for _ in messages],
    }
    ratios: dict[str, list[float]] = {name: [] for name in works}
    floors: list[float] = []
    for _ in range(options.rounds):
        for name, work in works.items():
            floor = seconds(decrypt)
            floors.append(floor)
            ratios[name].append(seconds(work) / floor)
    each = statistics.median(floors) / options.messages * 1e6
    print(f"{options.messages} messages; 1.00 is the ratchet decrypting one, {each:.0f} us")
    for name, measured in ratios.items():
        print(f"{name:28} {statistics.median(measured):6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
