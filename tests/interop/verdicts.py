"""The same answers to an OlmMachine and to our own checks, and what each makes of them.

One answer is about many users, each with something else that is special, so that all of them cost one machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from attrs import frozen

from interop.answers import Answer
from interop.olm_devices import recipients
from interop.olm_machine import OlmError, OlmMachine, OlmRequest
from interop.people import Person
from matrix_e2e_keys import (
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    RemoteProtocolError,
    check_claim,
    check_query,
)
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy, select_recipients
from matrix_e2e_keys.client.users.known_user import KnownUser

OBSERVER = "@observer:example.org"
COUNTS = {"signed_curve25519": 50}

Keys = dict[str, dict[str, Any]]
"""User id to device id to what stands in the place of the keys."""


class View(NamedTuple):
    """What one knows of a user after some answers.

    Attributes:
        device: ``""`` if the device is not known; else whose keys it has, ``first`` or ``other``, with ``+`` if it is
            cross-signed.
        identity: ``""`` if no identity is known; else whose master key it has, ``first`` or ``other``.
        witness: whether the device of another user is known, about whom nothing is wrong.
        sent: whether a room key is sent to the device, where a policy asks no more than that it is one.
    """

    device: str
    identity: str
    witness: bool
    sent: bool


class Views(NamedTuple):
    """Ours and that of the OlmMachine."""

    ours: View
    theirs: View


@frozen
class Subject:
    """The user in question.

    Attributes:
        person: with the keys that are the first.
        other: the same user and device, with other keys.
        witness: another user.
    """

    person: Person
    other: Person
    witness: Person

    @classmethod
    def numbered(cls, number: int) -> Subject:
        """Return fresh users."""
        user_id = f"@user{number}:example.org"
        witness = Person(f"@witness{number}:example.org", "DEVICE")
        return cls(Person(user_id, "DEVICE"), Person(user_id, "DEVICE"), witness)

    @property
    def people(self) -> list[Person]:
        """The user and the witness."""
        return [self.person, self.witness]

    def owner_of(self, ed25519: str | None) -> Person:
        """Return whose signing key this is."""
        return self.other if ed25519 == self.other.signer.public_key.to_base64() else self.person

    def name_device(self, ed25519: str, curve25519: str | None, *, by_owner: bool) -> str:
        """Return how a view names a device."""
        owner = self.owner_of(ed25519)
        whose = "other" if owner is self.other else "first"
        if curve25519 not in (None, owner.curve25519_key.to_base64()):
            whose = "changed"
        return whose + ("+" if by_owner else "")

    def name_identity(self, master_key: str) -> str:
        """Return how a view names an identity."""
        return "first" if master_key == self.person.public_text("master") else "other"


def query_answer(answers: Iterable[tuple[Subject, Answer]]) -> str:
    """Return one answer about all of them."""
    devices: list[str] = []
    masters: list[str] = []
    self_signing: list[str] = []
    for subject, answer in answers:
        user = json.dumps(subject.person.user_id)
        device = "" if answer.device is None else f"{json.dumps(subject.person.device_id)}:{answer.device}"
        devices.append(f"{answer.others}{user}:" + (f"{{{device}}}" if answer.devices is None else answer.devices))
        good = json.dumps({subject.witness.device_id: subject.witness.device_keys().to_json()})
        devices.append(f"{json.dumps(subject.witness.user_id)}:{good}")
        masters += [] if answer.master is None else [f"{user}:{answer.master}"]
        self_signing += [] if answer.self_signing is None else [f"{user}:{answer.self_signing}"]
    return (
        f'{{"device_keys":{{{",".join(devices)}}},"failures":{{}},"master_keys":{{{",".join(masters)}}}'
        f',"self_signing_keys":{{{",".join(self_signing)}}},"user_signing_keys":{{}}}}'
    )


def claim_answer(keys: Mapping[str, object]) -> str:
    """Return an answer with these keys."""
    return json.dumps({"one_time_keys": keys, "failures": {}})


def good_keys(*owners: Person) -> Keys:
    """Return a one-time key of each of some devices."""
    return {
        owner.user_id: {owner.device_id: {key_id: key.to_json() for key_id, key in owner.one_time_keys(1).items()}}
        for owner in owners
    }


class Bench:
    """An OlmMachine and our checks, side by side, with the same users."""

    def __init__(self, machine: OlmMachine, subjects: list[Subject]) -> None:
        self._machine = machine
        self._subjects = subjects
        self._users = [person.user_id for subject in subjects for person in subject.people]
        self._known: dict[str, KnownUser] = {}

    def close(self) -> None:
        """Let the machine forget everything."""
        self._machine.close()

    # ----------------------------------------------------------------------------------------------------------
    # Queries
    # ----------------------------------------------------------------------------------------------------------

    def query(self, answer: str) -> None:
        """Let both ask about all users, and hand both the same answer. What is refused as a whole changes nothing."""
        self._machine.call("track", users=self._users)
        self._machine.call("receive_changed", users=self._users, counts=COUNTS)
        (request,) = [it for it in self._machine.outgoing() if it.kind == "KeysQuery"]
        self._say_that_there_is_nothing_new(was_taken=self._is_taken(request, answer))
        try:
            response = KeysQueryResponse.from_bytes(answer.encode())
        except RemoteProtocolError:
            return
        self._known |= check_query(KeysQueryRequest.from_bytes(request.body), response, known=self._known).known

    def _is_taken(self, request: OlmRequest, answer: str) -> bool:
        try:
            self._machine.receive(request, answer)
        except OlmError:
            return False
        return True

    def _say_that_there_is_nothing_new(self, *, was_taken: bool) -> None:
        """Serve what the machine knows, where it goes on waiting for an answer: that would take seconds.

        That is so if it refused the whole answer, and for whomever it knows no device of.
        """
        serve: dict[str, dict[str, Any]] = {}
        for person in [person for subject in self._subjects for person in subject.people]:
            if not self._their_devices(person.user_id):
                serve[person.user_id] = {}
            elif not was_taken:
                serve[person.user_id] = {"DEVICE": person.cross_signed_device().to_json()}
        for request in self._machine.outgoing() if serve else ():
            if request.kind == "KeysQuery":
                self._machine.receive(request, json.dumps({"device_keys": serve}))

    def views(self) -> list[Views]:
        """Return what both know of each user, in order."""
        selected = select_recipients(
            self._users,
            known=self._known,
            policy=RecipientPolicy.ALL_DEVICES,
            own_user_id=OBSERVER,
            own_device_id="OBSERVER",
        )
        theirs = {user_id: self._their_devices(user_id) for user_id in self._users}
        self._claim(claim_answer(good_keys(*self._owners(theirs))))
        sent = recipients(self._machine, RecipientPolicy.ALL_DEVICES, *self._users)
        return [
            Views(
                ours=self._our_view(subject, is_sent="DEVICE" in selected.devices.get(subject.person.user_id, {})),
                theirs=self._their_view(subject, theirs, is_sent="DEVICE" in sent.get(subject.person.user_id, {})),
            )
            for subject in self._subjects
        ]

    def _our_view(self, subject: Subject, *, is_sent: bool) -> View:
        user, witness = (self._known.get(person.user_id) for person in subject.people)
        device = None if user is None else user.devices.get("DEVICE")
        name = identity = ""
        if device is not None:
            curve25519 = None if device.curve25519_key is None else device.curve25519_key.to_base64()
            name = subject.name_device(device.ed25519_key.to_base64(), curve25519, by_owner=device.is_cross_signed)
        if user is not None and user.identity is not None:
            identity = subject.name_identity(user.identity.master_public_key.to_base64())
        return View(name, identity, witness is not None and "DEVICE" in witness.devices, is_sent)

    def _their_view(self, subject: Subject, devices: Mapping[str, dict[str, Any]], *, is_sent: bool) -> View:
        device = devices[subject.person.user_id].get("DEVICE")
        found = self._machine.call("identity", user_id=subject.person.user_id)
        name = identity = ""
        if device is not None:
            name = subject.name_device(device["ed25519"], device["curve25519"], by_owner=device["by_owner"])
        if found is not None:
            (text, *_) = json.loads(found["master_key"])["keys"].values()
            identity = subject.name_identity(text)
        return View(name, identity, "DEVICE" in devices[subject.witness.user_id], is_sent)

    def _their_devices(self, user_id: str) -> dict[str, Any]:
        return {it["device_id"]: it for it in self._machine.call("devices", user_id=user_id)}

    def _owners(self, devices: Mapping[str, dict[str, Any]]) -> list[Person]:
        """Return whose one-time keys the machine takes."""
        owners: list[Person] = []
        for subject in self._subjects:
            device = devices[subject.person.user_id].get("DEVICE")
            owners += [subject.owner_of(None if device is None else device["ed25519"]), subject.witness]
        return owners

    # ----------------------------------------------------------------------------------------------------------
    # Claims
    # ----------------------------------------------------------------------------------------------------------

    def _claim(self, answer: str) -> KeysClaimRequest | None:
        claim = self._machine.call("missing_sessions", users=self._users)
        if claim is None:
            return None
        request = OlmRequest(**claim)
        self._is_taken(request, answer)  # if not, there is no session
        return KeysClaimRequest.from_bytes(request.body)

    def claim(self, answer: str) -> tuple[set[str], set[str]]:
        """Let both claim a key of each device, and hand both the same answer.

        Returns:
            The users with whom there is a session: ours, and the machine's.
        """
        request = self._claim(answer)
        assert request is not None
        theirs = set(recipients(self._machine, RecipientPolicy.ALL_DEVICES, *self._users))
        try:
            response = KeysClaimResponse.from_bytes(answer.encode())
        except RemoteProtocolError:
            return set(), theirs
        devices = {user_id: user.devices for user_id, user in self._known.items()}
        return set(check_claim(request, response, devices=devices).keys.accepted), theirs
