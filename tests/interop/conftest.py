"""The peers: Synapses that federate, OlmMachines, and homeservers of our own.

A peer that is not installed skips its tests, and says so. Where MATRIX_E2E_KEYS_REQUIRE_INTEROP=1, it fails them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping

import pytest

from interop.certificates import Certificates, make_certificates
from interop.key_homeserver import KeyHomeserver
from interop.matrix_http import Client, MakeClient
from interop.olm_machine import MakeOlmMachine, OlmDriver, OlmMachine, crypto_wasm
from interop.own_homeserver import MakeOwnHomeserver, OwnHomeserver
from interop.synapse_server import SynapseServer


def require(*, there: bool, what: str) -> None:
    """Skip, or fail, if a peer is not there."""
    if there:
        return
    if os.environ.get("MATRIX_E2E_KEYS_REQUIRE_INTEROP") == "1":
        pytest.fail(f"{what} is missing, and MATRIX_E2E_KEYS_REQUIRE_INTEROP=1", pytrace=False)
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session", autouse=True)
def vodozemac_installed() -> None:
    require(there=importlib.util.find_spec("vodozemac") is not None, what="the Python package vodozemac")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What servers show each other, and how they know that it is true."""
    require(there=importlib.util.find_spec("cryptography") is not None, what="the Python package cryptography")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def started_synapses(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, SynapseServer]]:
    """The Synapses that the tests of this run ask for, by fixture. They start side by side, and may not be up yet."""
    require(there=importlib.util.find_spec("synapse") is not None, what="the Python package matrix-synapse")
    certificates: Certificates = request.getfixturevalue("certificates")
    asked_for = {fixture for item in request.session.items for fixture in getattr(item, "fixturenames", ())}
    servers: dict[str, SynapseServer] = {}
    try:
        for name in ("synapse", "other_synapse"):
            if name in asked_for:
                servers[name] = SynapseServer(tmp_path_factory.mktemp(name), certificates)
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="session")
def synapse(started_synapses: Mapping[str, SynapseServer]) -> SynapseServer:
    """The homeserver of our users."""
    started_synapses["synapse"].wait_until_healthy()
    return started_synapses["synapse"]


@pytest.fixture(scope="session")
def other_synapse(started_synapses: Mapping[str, SynapseServer]) -> SynapseServer:
    """A homeserver that federates with :func:`synapse`."""
    started_synapses["other_synapse"].wait_until_healthy()
    return started_synapses["other_synapse"]


def clients_of(server: SynapseServer) -> MakeClient:
    def register(device_id: str = "DEVICE", display_name: str | None = None) -> Client:
        return Client.register(server.base_url, device_id, display_name)

    return register


@pytest.fixture
def new_client(synapse: SynapseServer) -> MakeClient:
    """Make a fresh user with one logged-in device."""
    return clients_of(synapse)


@pytest.fixture
def other_client(other_synapse: SynapseServer) -> MakeClient:
    """Make a fresh user with one logged-in device, on the other server."""
    return clients_of(other_synapse)


@pytest.fixture
def new_own_homeserver(certificates: Certificates) -> Iterator[MakeOwnHomeserver]:
    """Make a homeserver whose answers are the test's own."""
    servers: list[OwnHomeserver] = []

    def make() -> OwnHomeserver:
        servers.append(OwnHomeserver(certificates))
        return servers[-1]

    yield make
    with contextlib.ExitStack() as stack:  # all of them, even if one raises
        for server in servers:
            stack.callback(server.stop)


@pytest.fixture
def own(new_own_homeserver: MakeOwnHomeserver, certificates: Certificates) -> KeyHomeserver:
    """A homeserver of our own that knows keys."""
    return KeyHomeserver(new_own_homeserver(), certificates)


@pytest.fixture(scope="session")
def olm_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OlmDriver]:
    require(there=shutil.which("node") is not None, what="the program node")
    require(
        there=(crypto_wasm() / "node.mjs").is_file(),
        what=f"the npm package @matrix-org/matrix-sdk-crypto-wasm (CRYPTO_WASM, now {crypto_wasm()})",
    )
    driver = OlmDriver(tmp_path_factory.mktemp("olm") / "stderr.log")
    try:
        driver.wait_until_ready()
        yield driver
    finally:
        driver.stop()


@pytest.fixture
def new_olm_machine(olm_driver: OlmDriver) -> Iterator[MakeOlmMachine]:
    """Make a fresh OlmMachine."""
    machines: list[OlmMachine] = []

    def open_machine(user_id: str, device_id: str) -> OlmMachine:
        machines.append(olm_driver.open(user_id, device_id))
        return machines[-1]

    yield open_machine
    for machine in machines:
        machine.close()
