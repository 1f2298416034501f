"""The story of the demonstration, chapter by chapter, as lines of text.

Facts:

* What a line says of trust, states and numbers is read off the objects of the story. The same story comes out each
  time, though all keys are new.
* Nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import define, field

from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.client.trust.recipients import RecipientPolicy, Recipients
from matrix_e2e_keys.client.trust.trust import device_trust
from matrix_e2e_keys.demo.attacks import Attack, Scene
from matrix_e2e_keys.demo.conversation import Conversation
from matrix_e2e_keys.demo.key_attacks import CLIENTS_TO_SERVERS, SERVERS_TO_CLIENTS, SERVERS_TO_SERVERS
from matrix_e2e_keys.demo.message_attacks import ON_MESSAGES_TO_DEVICES, ON_MESSAGES_TO_ROOMS
from matrix_e2e_keys.demo.ratchets import Account, OlmAccount, SampleAccount, Vodozemac
from matrix_e2e_keys.demo.stage import ALICE, BOB, Stage
from matrix_e2e_keys.endpoints.http_values import HttpRequest
from matrix_e2e_keys.identifiers import server_name_of

__all__ = ["Story"]

_POLICY: Final = RecipientPolicy.CROSS_SIGNED_ONLY
_NEEDS_OLM: Final = 'This needs an Olm library: pip install "matrix-e2e-keys[demo]"'


@define(eq=False)
class Story:
    """One telling of the story.

    Attributes:
        olm: vodozemac; ``None`` if it is not installed. Then the chapters with messages are left out.
        tick: what stands before what holds.
        cross: what stands before what is refused.
        refused: how many attacks were refused so far.
        succeeded: how many were not, or not as they should be.
    """

    olm: Vodozemac | None = field(repr=False)
    tick: str
    cross: str
    refused: int = field(default=0, init=False)
    succeeded: int = field(default=0, init=False)
    _stage: Stage = field(init=False)
    _talk: Conversation | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        accounts: dict[str, OlmAccount] = {}

        def new_account(user_id: str, device_id: str) -> Account:
            if self.olm is None:
                return SampleAccount(user_id, device_id)
            accounts[device_id] = OlmAccount(self.olm, device_id)
            return accounts[device_id]

        self._stage = Stage(new_account)
        if self.olm is not None:
            self._talk = Conversation.begin(self.olm, self._stage, accounts)

    def lines(self) -> Iterator[str]:
        """Tell the story, once."""
        yield "Alice has a PHONE and a TABLET on a.example, Bob has a LAPTOP on b.example. Only the network is"
        yield "missing here: the keys, the signatures, the requests and the messages are real ones."
        if self.olm is None:
            yield "But vodozemac is not installed, so the devices have sample keys, and there are no messages."
        chapters = (
            ("Every device makes keys", self._device_keys),
            ("PHONE asks for Bob's devices", self._query),
            ("Alice and Bob make identities", self._identities),
            ("PHONE claims one-time keys", self._claim),
            ("The room key goes to each device (Olm)", self._olm_messages),
            ("A message goes to the room (Megolm)", self._room_messages),
            ("And what an attacker gets", self._attacks),
        )
        for number, (heading, tell) in enumerate(chapters, 1):
            yield ""
            yield f"{number}. {heading}"
            for line in tell():
                yield f"   {line}"
        yield ""
        yield self._summary()

    def _holds(self, text: str) -> str:
        return f"{self.tick} {text}"

    # ----------------------------------------------------------------------------------------------------------
    # Keys
    # ----------------------------------------------------------------------------------------------------------

    def _device_keys(self) -> Iterator[str]:
        yield "A device signs with one key, and others write to it with another. One-time keys wait on its"
        yield "server, so that others can begin to write while the device is off."
        for device in self._stage.devices:
            device.go_on()
            counts = device.server.sync(device.requester).keys.one_time_key_counts or {}
            name, count = device.own.device_id, sum(counts.values())
            yield self._holds(f"{name} uploads its two device keys and {count} one-time keys, all signed by itself")

    def _query(self) -> Iterator[str]:
        stage, phone = self._stage, self._stage.phone
        yield "Servers can answer what they like, so nothing counts that is not signed by the right key."
        for device in stage.devices:
            device.machine.lists.track([ALICE, BOB])  # they share an encrypted room
        phone.go_on()
        (asked,) = stage.carried
        yield self._holds(f"PHONE asks a.example, {_call(phone.log[-1][0].to_http())}")
        yield self._holds(f"a.example asks {asked.server_name}, {_call(asked.request)}, and signs that")
        bob = phone.knows(BOB)
        (name,) = bob.devices
        yield self._holds(f"Bob has a {name}; the keys are signed by {name} itself")
        yield f"- {name} is {device_trust(bob, name)}, so b.example may have made it up"
        stage.go_on()

    def _identities(self) -> Iterator[str]:
        stage = self._stage
        phone, tablet, laptop = stage.devices
        yield "A user's master key vouches for two others: one signs the devices of the user, the other one"
        yield "signs the users whom the user has verified. Together they are an identity."
        for device, name in ((phone, "Alice"), (laptop, "Bob")):
            device.machine.start_bootstrap(CrossSigningSecrets.generate(device.own.user_id))
            device.go_on()
            yield self._holds(f"{device.own.device_id} makes an identity for {name}, and signs itself with it")
        stage.go_on()
        bob = phone.knows(BOB)
        yield self._holds(
            f"PHONE sees that LAPTOP is {device_trust(bob, 'LAPTOP')} now; Bob's identity is {bob.pin.state}"
        )
        phone.machine.signing.verify_device("TABLET", tablet.own.ed25519_key)
        tablet.machine.users.confirm_own_identity(phone.master_key())
        stage.go_on()
        trust = device_trust(phone.knows(ALICE), "TABLET")
        yield self._holds(f"Alice compares keys on both her devices, and PHONE signs TABLET: {trust}")
        phone.machine.signing.verify_user(BOB, laptop.master_key())
        stage.go_on()
        yield self._holds(f"Alice compares master keys with Bob, and PHONE signs his: {phone.knows(BOB).pin.state}")
        yield self._holds(f"TABLET finds that signature, and needs no comparison: {tablet.knows(BOB).pin.state}")

    def _recipients(self) -> Recipients:
        return self._stage.phone.machine.devices_for([ALICE, BOB], _POLICY).require()

    def _claim(self) -> Iterator[str]:
        phone = self._stage.phone
        yield f"PHONE writes to devices that their users have signed, and to no others ({_POLICY}). To"
        yield "begin with, it takes a one-time key of each, which nobody else gets any more."
        phone.machine.sessions.want([it for of_user in self._recipients().devices.values() for it in of_user.values()])
        phone.go_on()
        for key in phone.claimed:
            name, server = key.device.device_id, server_name_of(key.device.user_id)
            yield self._holds(f"a key of {name}, from {server}, signed by {name}")

    # ----------------------------------------------------------------------------------------------------------
    # Messages
    # ----------------------------------------------------------------------------------------------------------

    def _olm_messages(self) -> Iterator[str]:
        stage, talk = self._stage, self._talk
        if talk is None:
            yield f"- {_NEEDS_OLM}"
            return
        yield "What is said in the room is encrypted once, for all. The key that opens it goes to each device"
        yield "in a message of its own."
        talk.phone.open_sessions()
        count = talk.writer.share_key(self._recipients())
        stage.settle()
        yield self._holds(f"PHONE sends {count} messages in one request; a.example passes Bob's on to b.example")
        for talker in (talk.tablet, talk.laptop):
            session = talk.receive_room_key(talker).require()
            yield self._holds(f"{talker.device.own.device_id} gets a room key {_made_by(session)}")
        laptop = stage.laptop
        laptop.machine.signing.verify_user(ALICE, stage.phone.master_key())
        stage.go_on()
        talk.readers["LAPTOP"].look_again(laptop.machine.users.users)
        ((session, _),) = talk.readers["LAPTOP"].sessions.values()
        yield self._holds("Bob compares master keys with Alice, and LAPTOP signs hers")
        yield self._holds(f"LAPTOP looks at its room key again: {_made_by(session)}")

    def _room_messages(self) -> Iterator[str]:
        talk = self._talk
        if talk is None:
            yield f"- {_NEEDS_OLM}"
            return
        yield "A message says inside for which room it is, and has a number, so that it is shown only once."
        event = talk.say("Shall we have tea?")
        yield self._holds(f"PHONE encrypts message {talk.writer.session.message_count - 1}")
        for device_id, reader in talk.readers.items():
            read = reader.read(event).require()
            text = f'"{read.content["body"]}" {_made_by(read.session)}'
            yield self._holds(f"{device_id} reads message {read.message_index}, {read.replay}: {text}")
        again = talk.readers["LAPTOP"].read(event).require()
        yield self._holds(f"LAPTOP scrolls back, and reads message {again.message_index} once more, {again.replay}")

    # ----------------------------------------------------------------------------------------------------------
    # Attacks
    # ----------------------------------------------------------------------------------------------------------

    def _attacks(self) -> Iterator[str]:
        stage, talk = self._stage, self._talk
        yield "Each attack is made on the story above. In brackets is the reason for which it is refused."
        yield "a.example lies to PHONE about Bob:"
        yield from self._attempts(SERVERS_TO_CLIENTS, stage)
        yield "Mallory lies to a.example:"
        yield from self._attempts(CLIENTS_TO_SERVERS, stage)
        yield "Another server lies to a.example:"
        yield from self._attempts(SERVERS_TO_SERVERS, stage)
        yield "Somebody between the devices:"
        if talk is None:
            yield f"- {_NEEDS_OLM}"
            return
        yield from self._attempts(ON_MESSAGES_TO_DEVICES, talk)
        yield "Somebody between the devices and their room:"
        yield from self._attempts(ON_MESSAGES_TO_ROOMS, talk)

    def _attempts(self, attacks: Iterable[Attack[Scene]], scene: Scene) -> Iterator[str]:
        for attack in attacks:
            refused = attack.attempt(scene)
            if attack.is_refused(refused):
                self.refused += 1
                yield f"{self.cross} {attack.what}: {attack.how} [{attack.reason}]"
            else:
                self.succeeded += 1
                got = "not refused at all" if refused is None else f"refused for {refused.reason} at {refused.path!r}"
                yield f"!!! {attack.what}: THIS SHOULD BE REFUSED for {attack.reason}, and is {got}"

    def _summary(self) -> str:
        stage, talk = self._stage, self._talk
        messages = 0 if talk is None else talk.messages
        told = (
            f"In all: {stage.requests} requests, {stage.verifier.checked} signatures checked, {messages} messages, "
            f"{self.refused} attacks refused"
        )
        return f"{told}, {self.succeeded} NOT REFUSED." if self.succeeded else f"{told}."


def _call(request: HttpRequest) -> str:
    return f"{request.method} {request.path}"


def _made_by(session: InboundSession) -> str:
    """Return who has made a session, and how sure one is of that."""
    device = None if session.sender is None else session.sender.device
    name = "somebody" if device is None else f"{device.user_id} on {device.device_id}"
    return f"from {name}, {session.trust}"
