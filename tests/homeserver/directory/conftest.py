"""Worlds to play scenarios in."""

from __future__ import annotations

import pytest

from homeserver.directory.servers import LocalWorld
from matrix_e2e_keys.homeserver.policies import COMPAT


@pytest.fixture
def world() -> LocalWorld:
    """Servers that demand what the specification demands."""
    return LocalWorld()


@pytest.fixture
def lax_world() -> LocalWorld:
    """Servers that let through what deployed servers let through."""
    return LocalWorld(policy=COMPAT)


@pytest.fixture(params=[0, 1], ids=["local", "remote"])
def server(request: pytest.FixtureRequest) -> int:
    """The server of whoever is not on the first one: each scenario is played twice."""
    place: int = request.param
    return place
