"""OlmMachines in a Node process, and their traffic with a homeserver."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from interop.matrix_http import Client
from matrix_e2e_keys import ENDPOINTS, HttpRequest
from matrix_e2e_keys.endpoints.http_values import fill_template

ANSWER_SECONDS = 30.0

DRIVER = Path(__file__).with_name("olm_driver.mjs")
REPOSITORY = Path(__file__).parents[2]

KINDS = {
    "KeysUpload": ENDPOINTS["keys_upload"],
    "KeysQuery": ENDPOINTS["keys_query"],
    "KeysClaim": ENDPOINTS["keys_claim"],
    "SignatureUpload": ENDPOINTS["signatures_upload"],
    "ToDevice": ENDPOINTS["send_to_device"],
}
ALL_DEVICES = "allDevices"


class OlmError(Exception):
    """The machine refused what it was given."""


class OlmRequest(NamedTuple):
    """A request that a machine wants to be sent.

    Attributes:
        id: under which the answer is handed over.
        kind: what the machine calls such requests.
        body: the text of the body.
        event_type: of messages to devices.
        txn_id: the same.
    """

    id: str | None
    kind: str
    body: str
    event_type: str | None = None
    txn_id: str | None = None


class OlmReceived(NamedTuple):
    """What a machine made of a message to its device.

    Attributes:
        outcome: ``Decrypted``, ``UnableToDecrypt``, ``PlainText`` or ``Invalid``.
        event: the event, decrypted if it could be. The machine keeps session keys to itself.
        sender: who sent it; ``None`` with the other four, if it was not decrypted.
        device_id: which device sent it, if the machine knows it.
        curve25519: the Olm identity key of that device.
        verified: whether the machine takes it for verified.
    """

    outcome: str
    event: dict[str, Any]
    sender: str | None
    device_id: str | None
    curve25519: str | None
    verified: bool


class OlmRoomEvent(NamedTuple):
    """What a machine made of an event of a room.

    Attributes:
        event: the decrypted event; ``None`` if it was refused.
        refused: why, as the machine calls it.
        withheld: why it was not given the room key, in words, if it was told.
        sender: who sent the room key.
        device_id: from which device.
        curve25519: the Olm identity key of that device.
        ed25519: its signing key.
    """

    event: dict[str, Any] | None
    refused: str | None
    withheld: str | None
    sender: str | None
    device_id: str | None
    curve25519: str | None
    ed25519: str | None


def crypto_wasm() -> Path:
    """Return the directory in which the package @matrix-org/matrix-sdk-crypto-wasm should be."""
    default = REPOSITORY / "node_modules/@matrix-org/matrix-sdk-crypto-wasm"
    return Path(os.environ.get("CRYPTO_WASM", default)).absolute()


class OlmDriver:
    """The Node process. It ends at the latest when this process does, since its standard input ends then."""

    def __init__(self, log: Path) -> None:
        node = shutil.which("node")
        assert node is not None
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [node, str(DRIVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "CRYPTO_WASM": str(crypto_wasm())},
                encoding="utf-8",
            )
        self._numbers = itertools.count()

    def wait_until_ready(self) -> None:
        """Return as soon as the driver answers."""
        assert self._read() == {"result": "ready"}

    def call(self, command: str, **arguments: object) -> Any:
        """Return the result of a command.

        Raises:
            OlmError: the command failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise OlmError(answer["error"])
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_SECONDS, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
            watchdog.join()
        if not line:
            raise RuntimeError(f"the driver ended; the end of its output:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def open(self, user_id: str, device_id: str) -> OlmMachine:
        """Return a fresh machine."""
        return OlmMachine(self, f"machine {next(self._numbers)}", user_id, device_id)

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class OlmMachine:
    """One machine: one device of one user."""

    def __init__(self, driver: OlmDriver, name: str, user_id: str, device_id: str) -> None:
        self.user_id = user_id
        self.device_id = device_id
        self._driver = driver
        self._name = name
        self.keys: dict[str, str] = self.call("open", user_id=user_id, device_id=device_id)

    def call(self, command: str, **arguments: object) -> Any:
        """Return the result of a command."""
        return self._driver.call(command, machine=self._name, **arguments)

    def close(self) -> None:
        """Forget everything."""
        self.call("close")

    def outgoing(self) -> list[OlmRequest]:
        """Return the requests that the machine wants to be sent."""
        return [OlmRequest(**request) for request in self.call("outgoing")]

    def receive(self, request: OlmRequest, answer: bytes | str) -> None:
        """Hand over an answer, byte for byte."""
        text = answer if isinstance(answer, str) else answer.decode()
        self.call("mark", id=request.id, kind=request.kind, body=text)

    def send(self, client: Client, request: OlmRequest) -> None:
        """Send a request, and hand over the answer."""
        endpoint = KINDS[request.kind]
        parameters = {} if request.txn_id is None else {"event_type": request.event_type, "txn_id": request.txn_id}
        path = fill_template(endpoint.template(), parameters)
        answer = client.http.send(HttpRequest(method=endpoint.method, path=path, body=request.body.encode()))
        assert answer.status == 200, answer.body
        if request.id is not None:
            self.receive(request, answer.body)

    def flush(self, client: Client) -> None:
        """Send requests until there are none."""
        while requests := self.outgoing():
            for request in requests:
                self.send(client, request)

    def look_up(self, client: Client, user_id: str) -> None:
        """Track a user, and query the user's keys."""
        self.call("track", users=[user_id])
        self.flush(client)

    def sign(self, message: bytes) -> str:
        """Return a signature of its device."""
        text: str = self.call("sign", user_id=self.user_id, device_id=self.device_id, message=message.decode())
        return text

    # ----------------------------------------------------------------------------------------------------------
    # Encrypted events
    # ----------------------------------------------------------------------------------------------------------

    def receive_sync(
        self,
        to_device: Iterable[Mapping[str, Any]] = (),
        *,
        changed: Iterable[str] = (),
        left: Iterable[str] = (),
        counts: Mapping[str, int] | None = None,
        unused_fallback: Iterable[str] = ("signed_curve25519",),
        trust: str = "Untrusted",
    ) -> list[OlmReceived]:
        """Hand over what an answer to ``/sync`` says; return what became of each message to the device."""
        received = self.call(
            "receive_sync",
            to_device=json.dumps(list(to_device)),
            changed=list(changed),
            left=list(left),
            counts={"signed_curve25519": 50} if counts is None else dict(counts),
            unused_fallback=list(unused_fallback),
            trust=trust,
        )
        return [OlmReceived(**{**it, "event": json.loads(it["event"])}) for it in received]

    def share_room_key(self, room_id: str, *user_ids: str, strategy: str = ALL_DEVICES) -> list[OlmRequest]:
        """Return the requests that give users the room key, or say why not. They have to be marked as sent."""
        requests = self.call("share_room_key_requests", room_id=room_id, users=user_ids, strategy=strategy)
        return [OlmRequest(**request) for request in requests]

    def encrypt_to_device(self, user_id: str, device_id: str, event_type: str, content: object) -> dict[str, Any]:
        """Return the content of an ``m.room.encrypted`` for a device with which there is a session."""
        text = self.call(
            "encrypt_to_device",
            user_id=user_id,
            device_id=device_id,
            event_type=event_type,
            content=json.dumps(content),
        )
        encrypted: dict[str, Any] = json.loads(text)
        return encrypted

    def encrypt_room_event(self, room_id: str, event_type: str, content: object) -> dict[str, Any]:
        """Return the content of an ``m.room.encrypted`` for a room whose key was shared."""
        text = self.call("encrypt_room_event", room_id=room_id, event_type=event_type, content=json.dumps(content))
        encrypted: dict[str, Any] = json.loads(text)
        return encrypted

    def decrypt_room_event(self, room_id: str, event: Mapping[str, Any], *, trust: str = "Untrusted") -> OlmRoomEvent:
        """Return what the machine makes of an event of a room."""
        found = self.call("decrypt_room_event", room_id=room_id, event=json.dumps(event), trust=trust)
        return OlmRoomEvent(**{**found, "event": found["event"] and json.loads(found["event"])})


MakeOlmMachine: TypeAlias = Callable[[str, str], OlmMachine]
"""A fixture: ``new_olm_machine(user_id, device_id)``."""
