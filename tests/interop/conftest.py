"""The peers: a Synapse, and OlmMachines.

A peer that is not installed skips its tests, and says so. Where MATRIX_E2E_KEYS_REQUIRE_INTEROP=1, it fails them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator

import pytest

from interop.matrix_http import Client, MakeClient
from interop.olm_machine import MakeOlmMachine, OlmDriver, OlmMachine, crypto_wasm
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
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynapseServer]:
    require(there=importlib.util.find_spec("synapse") is not None, what="the Python package matrix-synapse")
    server = SynapseServer(tmp_path_factory.mktemp("synapse"))
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


@pytest.fixture
def new_client(synapse: SynapseServer) -> MakeClient:
    """Make a fresh user with one logged-in device."""

    def register(device_id: str = "DEVICE", display_name: str | None = None) -> Client:
        return Client.register(synapse.base_url, device_id, display_name)

    return register


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
