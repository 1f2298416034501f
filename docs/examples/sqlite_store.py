"""The one-time keys of a homeserver on SQLite: ``python sqlite_store.py [FILE]``. The file may have many processes.

The library decides; the store makes it true. An upload is read, decided and written in one transaction; others wait.
Besides, what an effect demands is a constraint of the schema, or a row that has to be there: if it is not, all is
given up with a Conflict. Cross-signing keys and signatures would be more tables of the same kind, and are left out.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Generator, Iterable
from typing import Any, assert_never

from matrix_e2e_keys import KeysUploadRequest, KeysUploadResponse, SignedJson, encode_canonical_json, parse_json
from matrix_e2e_keys import homeserver as hs
from matrix_e2e_keys.testing.samples import SampleUser

# Names that clients choose are bytes: any string has some, and they sort by code points.
SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    user_id TEXT NOT NULL, device_id BLOB NOT NULL, display_name BLOB, keys TEXT, uploads INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id));
CREATE TABLE IF NOT EXISTS one_time_keys (
    id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, device_id BLOB NOT NULL, algorithm BLOB NOT NULL,
    key_id BLOB NOT NULL, digest TEXT NOT NULL, key TEXT NOT NULL, uploaded INTEGER NOT NULL,
    UNIQUE (user_id, device_id, key_id), UNIQUE (user_id, device_id, digest),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS oldest_key ON one_time_keys (user_id, device_id, algorithm, uploaded, key_id);
CREATE TABLE IF NOT EXISTS claimed_keys (
    user_id TEXT NOT NULL, device_id BLOB NOT NULL, digest TEXT NOT NULL, key_id BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id, digest), FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS claimed_id ON claimed_keys (user_id, device_id, key_id);
CREATE TABLE IF NOT EXISTS fallback_keys (
    user_id TEXT NOT NULL, device_id BLOB NOT NULL, algorithm BLOB NOT NULL, key_id BLOB NOT NULL,
    digest TEXT NOT NULL, key TEXT NOT NULL, is_used INTEGER NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, device_id, algorithm),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE);
"""

TAKE_OLDEST = """
DELETE FROM one_time_keys WHERE id = (
    SELECT id FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?
    ORDER BY uploaded, key_id LIMIT 1)
RETURNING key_id, digest, key"""

READ_USED_FALLBACK_KEY = """
SELECT key_id, key FROM fallback_keys WHERE user_id = ? AND device_id = ? AND algorithm = ? AND is_used"""

USE_FALLBACK_KEY = """
UPDATE fallback_keys SET is_used = TRUE WHERE user_id = ? AND device_id = ? AND algorithm = ? RETURNING key_id, key"""

STORE_FALLBACK_KEY = """
INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, digest, key) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, device_id, algorithm) DO UPDATE
SET key_id = excluded.key_id, digest = excluded.digest, key = excluded.key, is_used = FALSE
WHERE digest <> excluded.digest"""


class Conflict(Exception):  # noqa: N818
    """Somebody else was faster. Nothing was changed."""


class SqliteStore:
    """Devices and their one-time and fallback keys. One connection; not for several threads."""

    def __init__(self, path: str, *, policy: hs.Policy = hs.SPEC) -> None:
        self.policy = policy
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a claim that a power cut undoes would be repeated
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def upload(self, request: KeysUploadRequest, requester: hs.Requester) -> hs.Decision[KeysUploadResponse]:
        """Decide about an upload and store it. Meanwhile nobody changes anything."""
        lookup = hs.upload_lookup(request, policy=self.policy)
        with self._transaction():
            view = self.view(requester.user_id, requester.device_id or "", lookup)
            decision = hs.decide_keys_upload(request, requester=requester, view=view, policy=self.policy)
            for effect in decision.effects:
                self._do(effect)
        return decision

    def view(self, user_id: str, device_id: str, lookup: hs.UploadLookup) -> hs.UploadView:
        """Return what an upload is decided on. Only in the transaction that writes does it stay true."""
        at = (user_id, _bytes(device_id))
        devices = self._rows("SELECT device_id, display_name, keys FROM devices WHERE user_id = ?", user_id)
        mine = "user_id = ? AND device_id = ?"
        counts = self._rows(f"SELECT algorithm, count(*) FROM one_time_keys WHERE {mine} GROUP BY algorithm", *at)
        fallback = self._rows(f"SELECT algorithm, key_id, key, is_used FROM fallback_keys WHERE {mine}", *at)
        by_id, by_digest = f"{mine} AND key_id = ?", f"{mine} AND digest = ?"
        held: list[Any] = []
        claimed: list[Any] = []
        digests: list[Any] = []
        for key_id in map(_bytes, lookup.key_ids):
            held += self._rows(f"SELECT key_id, key FROM one_time_keys WHERE {by_id}", *at, key_id)
            claimed += self._rows(f"SELECT key_id, digest FROM claimed_keys WHERE {by_id}", *at, key_id)
        for digest in lookup.digests:
            for table in ("one_time_keys", "claimed_keys"):
                digests += self._rows(f"SELECT digest, key_id FROM {table} WHERE {by_digest}", *at, digest)
        records = [
            hs.DeviceRecord(
                device_id=_text(name),
                keys=keys and SignedJson.from_bytes(keys),
                display_name=None if shown is None else _text(shown),
            )
            for name, shown, keys in devices
        ]
        return hs.UploadView(
            user=hs.UserKeys(user_id=user_id, devices={record.device_id: record for record in records}),
            one_time_keys={_text(key_id): _read(key) for key_id, key in held},
            counts={_text(algorithm): count for algorithm, count in counts},
            claimed={_text(key_id): digest for key_id, digest in claimed},
            digests={digest: _text(key_id) for digest, key_id in digests},
            fallback_keys={
                _text(algorithm): hs.FallbackKeyRecord(key_id=_text(key_id), key=_read(key), is_used=bool(is_used))
                for algorithm, key_id, key, is_used in fallback
            },
        )

    def apply(self, effects: Iterable[hs.Effect]) -> None:
        """Do all of some effects or none. What a decision saw of a device's keys is not looked at: see ``upload``."""
        with self._transaction():
            for effect in effects:
                self._do(effect)

    def claim(self, wanted: Iterable[hs.KeyWanted]) -> list[hs.HandedOutKey]:
        """Hand out keys, as ``decide_claims`` would, and remember them."""
        with self._transaction():
            handed_out = [self._hand_out(want) for want in wanted]
        return [key for key in handed_out if key is not None]

    def _hand_out(self, want: hs.KeyWanted) -> hs.HandedOutKey | None:
        at = (want.user_id, _bytes(want.device_id))
        algorithm = _bytes(want.algorithm)
        for key_id, digest, key in self._rows(TAKE_OLDEST, *at, algorithm) if want.allows_one_time_key else ():
            self._db.execute("INSERT INTO claimed_keys VALUES (?, ?, ?, ?)", (*at, digest, key_id))
            return hs.HandedOutKey(wanted=want, key_id=_text(key_id), key=_read(key), is_fallback=False)
        for statement in (READ_USED_FALLBACK_KEY, USE_FALLBACK_KEY):
            for key_id, key in self._rows(statement, *at, algorithm):
                return hs.HandedOutKey(wanted=want, key_id=_text(key_id), key=_read(key), is_fallback=True)
        return None

    def _do(self, effect: hs.Effect) -> None:
        match effect:
            case hs.StoreDevice():
                name = None if effect.display_name is None else _bytes(effect.display_name)
                self._change(
                    "INSERT INTO devices (user_id, device_id, display_name) VALUES (?, ?, ?)"
                    " ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name",
                    *(effect.user_id, _bytes(effect.device_id), name),
                )
            case hs.DeleteDevice():
                at = (effect.user_id, _bytes(effect.device_id))
                self._db.execute("DELETE FROM devices WHERE user_id = ? AND device_id = ?", at)
            case hs.StoreDeviceKeys():
                at = (effect.user_id, _bytes(effect.device_id))
                that = "devices SET keys = ? WHERE user_id = ? AND device_id = ?"
                self._change(f"UPDATE {that}", _write(effect.keys), *at)
            case hs.StoreOneTimeKeys():
                self._store_one_time_keys(effect)
            case hs.ForgetOneTimeKeys():
                at, where = (effect.user_id, _bytes(effect.device_id)), "WHERE user_id = ? AND device_id = ?"
                for table in ("one_time_keys", "fallback_keys"):
                    self._db.execute(f"DELETE FROM {table} {where}", at)
                self._db.execute(f"UPDATE claimed_keys SET key_id = x'' {where}", at)
            case hs.StoreFallbackKey():
                algorithm, key_id = _bytes(effect.key_id.partition(":")[0]), _bytes(effect.key_id)
                key = (algorithm, key_id, hs.key_digest(effect.key), _write(effect.key))
                self._db.execute(STORE_FALLBACK_KEY, (effect.user_id, _bytes(effect.device_id), *key))
            case hs.TakeOneTimeKey():
                at, key_id = (effect.user_id, _bytes(effect.device_id)), _bytes(effect.key_id)
                that = "one_time_keys WHERE user_id = ? AND device_id = ? AND key_id = ? AND digest = ?"
                self._change(f"DELETE FROM {that}", *at, key_id, effect.digest)
                self._db.execute("INSERT INTO claimed_keys VALUES (?, ?, ?, ?)", (*at, effect.digest, key_id))
            case hs.MarkFallbackKeyUsed():
                at = (effect.user_id, _bytes(effect.device_id))
                that = "fallback_keys SET is_used = TRUE WHERE user_id = ? AND device_id = ? AND key_id = ?"
                self._change(f"UPDATE {that}", *at, _bytes(effect.key_id))
            case hs.DeviceChanged() | hs.IdentityChanged() | hs.SignedOthers():
                pass  # notices are for others
            case hs.StoreCrossSigningKey() | hs.DropCrossSigningKey():
                raise NotImplementedError(type(effect).__name__)
            case hs.IfUnchanged() | hs.StoreSignature() | hs.DropSignaturesBy() | hs.DropSignaturesOn():
                raise NotImplementedError(type(effect).__name__)
            case _:
                assert_never(effect)

    def _store_one_time_keys(self, effect: hs.StoreOneTimeKeys) -> None:
        at = (effect.user_id, _bytes(effect.device_id))
        self._change("UPDATE devices SET uploads = uploads + 1 WHERE user_id = ? AND device_id = ?", *at)
        for name, key in effect.keys.items():
            key_id, digest = _bytes(name), hs.key_digest(key)
            self._db.execute(
                "INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, digest, key, uploaded)"
                " SELECT user_id, device_id, ?, ?, ?, ?, uploads FROM devices WHERE user_id = ? AND device_id = ?",
                (_bytes(name.partition(":")[0]), key_id, digest, _write(key), *at),
            )
            which = "(digest = ? OR (? AND key_id = ?))"
            that = f"SELECT 1 FROM claimed_keys WHERE user_id = ? AND device_id = ? AND {which}"
            if self._rows(that, *at, digest, self.policy.refuses_claimed_ids, key_id):
                raise Conflict(f"{name} has been claimed")

    def _change(self, statement: str, *values: object) -> None:
        """Run a statement that holds if it changes a row."""
        if self._db.execute(statement, values).rowcount != 1:
            raise Conflict(statement)

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")  # waits for the other writers; later, what is read could be old
        try:
            yield
            self._db.commit()
        except sqlite3.IntegrityError as error:
            raise Conflict(str(error)) from error
        finally:
            self._db.rollback()  # nothing, if all is committed


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _write(key: hs.StoredKey) -> str:
    return encode_canonical_json(key if isinstance(key, str) else key.to_json()).decode()


def _read(text: str) -> hs.StoredKey:
    return str(parse_json(text)) if text.startswith('"') else SignedJson.from_bytes(text)


def main(path: str = ":memory:") -> None:
    """Upload three one-time keys and a fallback key, claim five keys, and upload the same again."""
    store, alice, phone = SqliteStore(path), SampleUser("@alice:a.example"), "PHONE"
    requester = hs.Requester(user_id=alice.user_id, device_id=phone)
    wanted = hs.KeyWanted(user_id=alice.user_id, device_id=phone, algorithm="signed_curve25519")
    store.apply([hs.DeleteDevice(user_id=alice.user_id, device_id=phone)])
    store.apply([hs.StoreDevice(user_id=alice.user_id, device_id=phone)])
    request = KeysUploadRequest.for_keys(
        device_keys=alice.device(phone, cross_signed=False),
        one_time_keys=[alice.one_time_key(phone, name) for name in ("B", "A", "C")],
        fallback_keys=[alice.one_time_key(phone, "F", fallback=True)],
    )
    print("uploaded:", store.upload(request, requester).require().to_json())
    for _ in range(5):
        for key in store.claim([wanted]):
            print("claimed:", key.key_id, "(fallback)" if key.is_fallback else "(one-time)")
    print("uploaded again:", store.upload(request, requester).require().to_json())
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
