"""The house: import floors, no I/O, the public face."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import attrs
import pytest

import matrix_e2e_keys
from matrix_e2e_keys.sealed import Sealed

ROOT = Path(__file__).parents[1]
PACKAGE = Path(matrix_e2e_keys.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


# --------------------------------------------------------------------------------------------------------------
# Import contracts
# --------------------------------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts of pyproject.toml on the copy of the package in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    pytest.importorskip("importlinter")
    shutil.copytree(PACKAGE, tmp_path / "matrix_e2e_keys", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_are_kept(house: Path) -> None:
    result = lint_imports(house)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("errors.py", "from matrix_e2e_keys.keys import KeyId"),
        ("models/device_keys.py", "import matrix_e2e_keys.client.queries.query"),
        ("endpoints/client_server/keys_query.py", "from matrix_e2e_keys.client.queries import query"),
        ("signing/signers.py", "from matrix_e2e_keys.models import device_keys"),
        ("client/queries/query.py", "import matrix_e2e_keys.testing.samples"),
        ("client/queries/query.py", "import socket"),
        ("models/device_keys.py", "import logging"),
        ("json_trees.py", "import time"),
        ("signing/verifiers.py", "from concurrent.futures import ThreadPoolExecutor"),
        ("keys.py", "import os"),
        ("client/queries/query.py", "import hypothesis"),
        ("testing/samples.py", "import matrix_e2e_keys.cli"),
        ("client/users/changes.py", "import matrix_e2e_keys.client.queries.query"),
        ("client/supply/upload.py", "import matrix_e2e_keys.client.claims.claim"),
    ],
)
def test_the_contracts_can_fail(house: Path, module: str, line: str) -> None:
    path = house / "matrix_e2e_keys" / module
    path.write_text(path.read_text().replace("from __future__ import annotations\n", f"{line}\n", 1))
    result = lint_imports(house)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout


def test_the_core_imports_no_io_at_run_time() -> None:
    """Neither the library nor what it imports first brings in sockets or a thread pool of its own."""
    code = (
        "import sys\n"
        "import nacl.signing, nacl.bindings, canonicaljson, unpaddedbase64, attrs\n"
        "before = set(sys.modules)\n"
        "import matrix_e2e_keys\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    brought = {name.partition(".")[0] for name in result.stdout.split()}
    assert "matrix_e2e_keys" in brought
    assert not brought & {"socket", "ssl", "http", "asyncio", "logging", "threading", "hypothesis"}
    assert "urllib.request" not in result.stdout.split()
    assert not {name for name in result.stdout.split() if name.startswith("matrix_e2e_keys.testing")}


# --------------------------------------------------------------------------------------------------------------
# The public face
# --------------------------------------------------------------------------------------------------------------


def test_the_public_face_is_what_it_says() -> None:
    assert len(set(matrix_e2e_keys.__all__)) == len(matrix_e2e_keys.__all__)
    for name in matrix_e2e_keys.__all__:
        assert getattr(matrix_e2e_keys, name) is not None
    public = {name for name in vars(matrix_e2e_keys) if not name.startswith("_")}
    submodules = {path.stem for path in PACKAGE.iterdir()}
    assert public - submodules - {"Final"} <= set(matrix_e2e_keys.__all__)


def test_every_module_says_what_it_exports() -> None:
    for path in MODULES:
        if path.name in ("__init__.py", "__main__.py"):
            continue
        module = importlib.import_module(module_name(path))
        assert module.__doc__, path
        for name in module.__all__:
            assert hasattr(module, name), (path, name)


def test_every_public_thing_is_documented() -> None:
    for name in matrix_e2e_keys.__all__:
        thing = getattr(matrix_e2e_keys, name)
        if not callable(thing) or isinstance(thing, typing.NewType):
            continue
        assert thing.__doc__, name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
                assert value.__doc__ or getattr(value, "__func__", value).__doc__, (name, member)


STATE_MACHINES = {
    "BackOff",
    "ClaimLedger",
    "ClaimPlanner",
    "CrossSigningBootstrap",
    "DeviceListOutbox",
    "DeviceListTracker",
    "KeyDirectory",
    "KeyMachine",
    "KeyRequests",
    "KeySupply",
    "KnownServers",
    "KnownUsers",
    "LocalFederation",
    "MemoryStore",
    "NoOlmMemory",
    "OutboundSession",
    "OwnSigning",
    "RemoteDeviceLists",
    "ReplayGuard",
    "SignatureQueue",
}
PARTS_OF_STATE_MACHINES = {
    "BatchSize",
    "CachedUser",
    "ChangedRows",
    "Case",
    "ChangeStream",
    "ClaimDelays",
    "ClaimMemory",
    "DirectoryState",
    "exchange.Exchange",
    "FallbackKey",
    "FallbackKeys",
    "Flight",
    "Inspection",
    "KeyCount",
    "KeyNames",
    "Mailbox",
    "NameTable",
    "OfferedSignature",
    "OneTimePool",
    "OpenRequests",
    "OutboxQueue",
    "OwnUploads",
    "QueryCheck",
    "Ranking",
    "ResyncQueue",
    "Rooms",
    "ShownUsers",
    "Transactions",
    "UnknownSenders",
    "Uploads",
}
"""What remembers something, and so changes. Nothing else does."""


def test_models_are_frozen_and_slotted() -> None:
    for path in MODULES:
        if path.name == "__main__.py" or {"testing", "demo"}.intersection(path.parts):
            continue
        for name, thing in vars(importlib.import_module(module_name(path))).items():
            if isinstance(thing, type) and attrs.has(thing) and not name.startswith("_"):
                assert "__dict__" not in dir(thing), name
                changes = not {name, f"{thing.__module__.rpartition('.')[2]}.{name}"}.isdisjoint(
                    STATE_MACHINES | PARTS_OF_STATE_MACHINES
                )
                assert (thing.__setattr__ is object.__setattr__) == changes, name


def test_no_attrs_validators() -> None:
    """They can be switched off for the whole process, so nothing that matters may hang on one."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "validator", path


def test_sealed_types() -> None:
    sealed = {name for name in matrix_e2e_keys.__all__ if isinstance(getattr(matrix_e2e_keys, name), Sealed)}
    assert sealed == {
        "AcceptedForward",
        "AcceptedSecret",
        "CrossSigningBootstrap",
        "CrossSigningKey",
        "DecryptedOlmEvent",
        "DecryptedRoomEvent",
        "DeviceKeys",
        "InboundSession",
        "KeyMachine",
        "MegolmSessionKey",
        "OlmSender",
        "OneTimeKey",
        "OwnIdentity",
        "RoomKeyDecision",
        "ServerKeys",
        "SignedJson",
        "UserIdentity",
        "VerifiedDevice",
        "VerifiedOneTimeKey",
        "VerifiedServerKeys",
    }
    for name in sealed:
        with pytest.raises(matrix_e2e_keys.LocalProtocolError):
            getattr(matrix_e2e_keys, name)()


def test_identifiers_are_minted_in_one_place() -> None:
    """A NewType checks nothing: only the functions that do check may call one."""
    for path in MODULES:
        if path.name == "identifiers.py":
            continue
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        allowed = {"DeviceId"} if path.name == "device_keys.py" else set()
        assert not {"UserId", "DeviceId", "ServerName", "RoomId"} & set(calls) - allowed, path


def test_runtime_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition(">")[0] for line in project["dependencies"]}
    assert names == {"attrs", "canonicaljson", "pynacl", "unpaddedbase64"}
    assert "pynacl>=1.6.2" in project["dependencies"]


def attack_numbers(text: str) -> set[int]:
    """Return the numbers in phrases such as "attack 7", "attacks 25 and 29", "attacks 6 to 10"."""
    numbers: set[int] = set()
    for phrase in re.findall(r"[Aa]ttacks?[ \n]+([0-9][0-9, toand]*)", text):
        for first, last in re.findall(r"([0-9]+)(?: to ([0-9]+))?", phrase):
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def test_every_attack_of_the_catalogue_has_a_test() -> None:
    """The numbers are those of the project's catalogue of attacks."""
    shown: set[int] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                shown |= attack_numbers(ast.get_docstring(node) or "")
    assert {*range(1, 62)} - shown == set()
    assert attack_numbers("Attacks 6 to 8, 12 and 14: x. attack 3") == {3, 6, 7, 8, 12, 14}
