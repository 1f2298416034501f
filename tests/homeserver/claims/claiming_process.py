"""Many processes at one pool of one-time keys: ``claiming_process.py EXAMPLE DSN`` tells as JSON who was given what.

Each process has a connection of its own; they begin at the same time. Run as a program, it is one that has no threads,
and so may be forked: what is imported is imported once.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from types import ModuleType
from typing import Any

from matrix_e2e_keys import KeysUploadRequest
from matrix_e2e_keys.homeserver.claims.local_claims import KeyWanted
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.testing.samples import SampleUser

ALICE = SampleUser("@alice:a.example")
DEVICE_IDS = ("A", "B", "C", "D")
ALGORITHM = "signed_curve25519"
FIRST_UPLOADS, LATER_UPLOADS = range(1, 5), range(5, 7)
KEYS_PER_UPLOAD = 25
CLAIMING, UPLOADING = 8, 2
PATIENCE_S = 60


def load_example(path: Path) -> ModuleType:
    """Return a module of docs/examples."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def store_class(example: ModuleType) -> Any:
    """Return the store of an example: ``SqliteStore`` of ``sqlite_store``."""
    return getattr(example, example.__name__.title().replace("_", ""))


def key_ids(upload: int) -> list[str]:
    """The ids of the keys in one upload, in the order in which they are claimed. A later upload has lower ids."""
    return [f"{ALGORITHM}:{99 - upload}-{number:02}" for number in range(KEYS_PER_UPLOAD)]


def request(device_id: str, upload: int) -> KeysUploadRequest:
    """An upload of some one-time keys, the first one with a fallback key."""
    names = [key_id.partition(":")[2] for key_id in key_ids(upload)]
    return KeysUploadRequest.for_keys(
        one_time_keys=[ALICE.one_time_key(device_id, name) for name in reversed(names)],
        fallback_keys=[ALICE.one_time_key(device_id, "F", fallback=True)] if upload == 1 else [],
    )


def do_uploads(store: Any, uploads: range) -> None:
    """Make some uploads for all devices."""
    for upload in uploads:
        for device_id in DEVICE_IDS:
            requester = Requester(user_id=ALICE.user_id, device_id=device_id)
            store.upload(request(device_id, upload), requester).require()


def upload_all(example: ModuleType, dsn: str, begin: Barrier) -> None:
    """Make the later uploads."""
    store = store_class(example)(dsn)
    begin.wait(PATIENCE_S)
    do_uploads(store, LATER_UPLOADS)
    store.close()


def claim_all(example: ModuleType, dsn: str, begin: Barrier, uploaded: Event, number: int, to: Connection) -> None:
    """Claim one key after the other of each device; every other process, of all devices at once."""
    store = store_class(example)(dsn)
    start = number % len(DEVICE_IDS)
    order = DEVICE_IDS[start:] + DEVICE_IDS[:start]
    wanted = [KeyWanted(user_id=ALICE.user_id, device_id=device_id, algorithm=ALGORITHM) for device_id in order]
    groups = [wanted] if number % 2 else [[want] for want in wanted]
    taken: list[list[str]] = []
    begin.wait(PATIENCE_S)
    while True:
        is_last = uploaded.is_set()  # looked at before the claim
        handed_out = [key for group in groups for key in store.claim(group)]
        assert [key.wanted for key in handed_out] == wanted, "there is a fallback key"
        new = [key for key in handed_out if not key.is_fallback]
        taken += [[key.wanted.device_id, key.key_id, key.key.content["key"]] for key in new]
        if is_last and not new:
            break
        time.sleep(0.002)  # so that others have a chance: those who wait for SQLite ask now and then only
    to.send(taken)
    store.close()


def main(example_path: str, dsn: str) -> None:
    example, context = load_example(Path(example_path)), multiprocessing.get_context("fork")
    begin, uploaded = context.Barrier(UPLOADING + CLAIMING), context.Event()
    uploading = [context.Process(target=upload_all, args=(example, dsn, begin)) for _ in range(UPLOADING)]
    for process in uploading:
        process.start()
    claiming: list[Any] = []
    answers: list[Connection] = []
    for number in range(CLAIMING):
        answer, to = context.Pipe(duplex=False)
        arguments = (example, dsn, begin, uploaded, number, to)
        claiming.append(context.Process(target=claim_all, args=arguments))
        claiming[-1].start()
        to.close()
        answers.append(answer)
    for process in uploading:
        process.join()
    uploaded.set()
    print(json.dumps([answer.recv() for answer in answers]))
    for process in (*uploading, *claiming):
        process.join()
        assert process.exitcode == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
