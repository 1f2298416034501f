"""Two homeservers and two clients in one process, without a network: from the first upload to a verified user.

Run it: ``python docs/examples/two_homeservers.py``. What an Olm library would make are sample keys here.
"""

from __future__ import annotations

from matrix_e2e_keys import CrossSigningSecrets, KeyMachine, RecipientPolicy
from matrix_e2e_keys.homeserver import KeyDirectory, LocalFederation, Requester
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

NOW = 1_790_000_000_000  # milliseconds since the epoch; the clock is yours
ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
ROOM = "!room:a.example"


class Client:
    """A device that is logged in: a machine, and the way to its server."""

    def __init__(self, federation: LocalFederation, user: SampleUser, device_id: str) -> None:
        self.federation, self.user = federation, user
        self.requester = Requester(user_id=user.user_id, device_id=device_id)
        self.server_name = user.user_id.partition(":")[2]
        federation[self.server_name].log_in(user.user_id, device_id, now=NOW)
        device = user.device(device_id, cross_signed=False)
        self.machine = KeyMachine.create(device, signer=user.device_signer(device_id))
        self.machine.lists.track([ALICE.user_id, BOB.user_id])

    def go_on(self) -> None:
        """Make keys, store everything, send what there is to send, and take over the answers, until that is all."""
        needed = self.machine.supply.needed(NOW)
        names = [f"{self.user.user_id} {number}" for number in range(needed.one_time_keys)]
        self.machine.add_one_time_keys({f"K{number}": sample_curve25519_key(name) for number, name in enumerate(names)})
        if needed.fallback_key:
            self.machine.add_fallback_key("F", sample_curve25519_key(f"{self.user.user_id} F"), NOW)
        while True:
            self.machine.mark_stored(self.machine.to_json())
            requests = self.machine.outgoing_requests(NOW)
            if not requests:
                return
            for outgoing in requests:
                http = self.federation.exchange(
                    self.server_name, outgoing.request.to_http(), requester=self.requester, now=NOW
                )
                answer = outgoing.request.read_answer(http)
                received = self.machine.receive_response(outgoing.request_id, answer, NOW)
                print(f"{self.user.user_id}: {type(outgoing.request).__name__} {http.status}")
                for user_id, devices in received.sessions.items():
                    for device_id, key in devices.items():
                        print(f"{self.user.user_id}: a session with {user_id} {device_id} by {key.key_id}")
                        self.machine.sessions.session_opened(key.device)


federation = LocalFederation(
    KeyDirectory.create(name, signers=sample_secret_key(name).signer("ed25519:1"))
    for name in ("a.example", "b.example")
)
for name in ("a.example", "b.example"):  # whoever runs the rooms tells both servers who is in them
    for user in (ALICE, BOB):
        federation[name].join(user.user_id, ROOM, now=NOW)

alice, bob = Client(federation, ALICE, "PHONE"), Client(federation, BOB, "LAPTOP")
for client in (alice, bob):
    client.go_on()
    roles = {role: client.user.secret(role) for role in ("master", "self_signing", "user_signing")}
    client.machine.start_bootstrap(CrossSigningSecrets(user_id=client.user.user_id, **roles))
    client.go_on()
federation.settle(now=NOW)  # the servers tell each other

alice.machine.lists.mark_outdated([BOB.user_id])  # as /sync would say
alice.go_on()
bobs = alice.machine.devices_for([BOB.user_id], RecipientPolicy.ALL_DEVICES).devices[BOB.user_id]
alice.machine.sessions.want(bobs.values())
alice.go_on()

known = alice.machine.users.users[BOB.user_id]
print(f"bob is {known.pin.state}")
alice.machine.signing.verify_user(BOB.user_id, BOB.master_public_key)  # as they have compared it
alice.go_on()
print(f"bob is {alice.machine.users.users[BOB.user_id].pin.state}")
print(f"keys that are left to claim: {federation['b.example'].sync(bob.requester).keys.one_time_key_counts}")
