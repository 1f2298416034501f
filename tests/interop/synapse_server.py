"""A Synapse on 127.0.0.1, for the length of a test run.

It has a plain HTTP listener for clients, and one over TLS for other servers of this machine. Outgoing requests to a
port on which nobody listens fail at once, which is what the tests want of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interop.certificates import Certificates
from interop.matrix_http import Http, HttpFailure
from interop.ports import free_port
from matrix_e2e_keys import Ed25519SecretKey, HttpRequest

START_SECONDS = 60.0
STOP_SECONDS = 10.0

# The child asks the kernel for a SIGTERM at its parent's death, so that a killed pytest leaves no server behind.
PROGRAM = f"""
import contextlib, ctypes, runpy
with contextlib.suppress(AttributeError, OSError):  # Linux only
    ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
runpy.run_module("synapse.app.homeserver", run_name="__main__", alter_sys=True)
"""


def listener(port: int, resource: str, *, tls: bool) -> dict[str, Any]:
    """Return the configuration of one listener."""
    return {
        "port": port,
        "type": "http",
        "tls": tls,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": [resource], "compress": False}],
    }


def configuration(
    directory: Path, client_port: int, federation_port: int, certificates: Certificates
) -> dict[str, Any]:
    """Return a configuration without rate limits, waiting or traffic to the outside."""
    unlimited = {"per_second": 10_000, "burst_count": 10_000}
    return {
        "server_name": f"localhost:{federation_port}",  # a name with a port is not looked up: it is where to connect
        "public_baseurl": f"http://127.0.0.1:{client_port}/",
        "pid_file": str(directory / "homeserver.pid"),
        "listeners": [
            listener(client_port, "client", tls=False),
            listener(federation_port, "federation", tls=True),
        ],
        "tls_certificate_path": str(certificates.certificate),
        "tls_private_key_path": str(certificates.private_key),
        "federation_custom_ca_list": [str(certificates.authority)],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / "signing.key"),
        "macaroon_secret_key": "interop",
        "form_secret": "interop",
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "report_stats": False,
        "presence": {"enabled": False},
        "caches": {"sync_response_cache_duration": 0},  # every /sync is answered afresh
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "ip_range_blacklist": [],  # else requests to 127.0.0.1 are not even tried
        "federation": {
            "client_timeout": "5s",
            "max_short_retries": 0,
            "max_long_retries": 0,
            "destination_min_retry_interval": 1,  # milliseconds: a server that is back is asked again at once
            "destination_max_retry_interval": 1,
            "destination_retry_multiplier": 1,
        },
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
        "rc_joins": {"local": unlimited, "remote": unlimited},
        "rc_joins_per_room": unlimited,
        "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
        "rc_room_creation": unlimited,
        "rc_key_requests": unlimited,
        "rc_federation": {
            "window_size": 1000,
            "sleep_limit": 10_000,
            "sleep_delay": 0,
            "reject_limit": 10_000,
            "concurrent": 100,
        },
    }


class SynapseServer:
    """A server process. :meth:`stop` must be called, whatever happens."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        client_port, federation_port = free_port(), free_port()
        self.server_name = f"localhost:{federation_port}"
        self.base_url = f"http://127.0.0.1:{client_port}"
        self._output = directory / "output.log"
        config = directory / "homeserver.yaml"
        settings = configuration(directory, client_port, federation_port, certificates)
        config.write_text(json.dumps(settings))  # JSON is YAML
        (directory / "signing.key").write_text(f"ed25519 interop {Ed25519SecretKey.generate().export_base64()}\n")
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
            )

    def wait_until_healthy(self) -> None:
        """Return as soon as the server answers.

        Raises:
            RuntimeError: it does not.
        """
        end = time.monotonic() + START_SECONDS
        http = Http(self.base_url)
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if http.send(HttpRequest(method="GET", path="/health"), timeout=2).status == 200:
                    return
            except HttpFailure:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"Synapse did not start; the end of its output:\n{self._output.read_text()[-3000:]}")

    def stop(self) -> None:
        """Stop the server, gently if it lets itself be stopped so."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
