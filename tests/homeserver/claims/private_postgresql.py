"""A PostgreSQL cluster of one's own: made by initdb, on a Unix socket, gone afterwards."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

_STARTS_WITHIN_S = 30


def _programs() -> Path | None:
    """Return the folder with initdb and postgres: that in the search path, else the newest of Debian's."""
    named = (Path(path).resolve().parent for name in ("initdb", "postgres") if (path := shutil.which(name)))
    versioned = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -float(path.parent.name))
    folders = (folder for folder in (*named, *versioned) if (folder / "initdb").is_file())
    return next((folder for folder in folders if (folder / "postgres").is_file()), None)


def _account() -> dict[str, Any] | None:
    """Return how to run PostgreSQL, which refuses to run as root; ``None`` if there is no way."""
    if os.geteuid() != 0:
        return {}
    pwd = importlib.import_module("pwd")  # not everywhere
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        return None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def missing() -> str | None:
    """Return what there would have to be, ``None`` if all is there."""
    if os.name != "posix":
        return "a POSIX system"
    if _programs() is None:
        return "PostgreSQL (initdb, postgres)"
    return "the system user postgres, as root" if _account() is None else None


@contextlib.contextmanager
def private_cluster() -> Generator[str]:
    """Start a cluster, and give the DSN of its empty database."""
    programs, account = _programs(), _account()
    assert programs is not None
    assert account is not None
    folder = Path(tempfile.mkdtemp(prefix="e2e-pg-"))  # short, since the path of a socket may not be long
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        data = folder / "data"
        options = [f"--pgdata={data}", "--username=keys", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [programs / "initdb", *options], cwd=folder, capture_output=True, check=False, text=True, **account
        )
        assert made.returncode == 0, made.stderr
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "full_page_writes=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                cwd=folder,
                stdout=log,
                stderr=log,
                **account,
            )
        try:
            dsn = f"host={folder} user=keys dbname=postgres"
            _wait_for(dsn, server, folder / "log")
            yield dsn
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.send_signal(3)  # an immediate shutdown, connections or not
                server.wait(10)
    finally:
        shutil.rmtree(folder)


def _wait_for(dsn: str, server: subprocess.Popen[Any], log: Path) -> None:
    psycopg = importlib.import_module("psycopg")  # whoever wants a cluster has it
    until = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        else:
            return
