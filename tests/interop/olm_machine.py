"""OlmMachines in a Node process, and their traffic with a homeserver."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from interop.matrix_http import Client
from matrix_e2e_keys import ENDPOINTS, HttpRequest

ANSWER_SECONDS = 30.0

DRIVER = Path(__file__).with_name("olm_driver.mjs")
REPOSITORY = Path(__file__).parents[2]

KINDS = {
    "KeysUpload": ENDPOINTS["keys_upload"],
    "KeysQuery": ENDPOINTS["keys_query"],
    "KeysClaim": ENDPOINTS["keys_claim"],
    "SignatureUpload": ENDPOINTS["signatures_upload"],
}


class OlmError(Exception):
    """The machine refused what it was given."""


class OlmRequest(NamedTuple):
    """A request that a machine wants to be sent."""

    id: str | None
    kind: str
    body: str


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
        body = request.body.encode()
        answer = client.http.send(HttpRequest(method=endpoint.method, path=endpoint.template(), body=body))
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


MakeOlmMachine: TypeAlias = Callable[[str, str], OlmMachine]
"""A fixture: ``new_olm_machine(user_id, device_id)``."""
