"""Keys: who may serve and use a pool beyond one host. CURVE (RFC 26 of ZeroMQ) encrypts and proves; ZAP lists who may.

One folder a user, mode 0700 with files of 0600; ZMQCARLA_KEYS, else ~/.config/zmqcarla/keys:

    client.secret   this user's own key, for clients and workers
    broker.public   the key that a broker has to prove before anything is told to it
    broker.secret   on the broker's host
    allowed         on the broker's host: one key and its name a line; read again whenever it changes

Keys are 64 hex digits. Where keys are used: on TCP addresses beyond loopback always, unless ZMQCARLA_INSECURE=1; on
loopback only when ZMQCARLA_KEYS is set (for a tunnel); on ipc never, for its directory is the user's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from zmqcarla.broker.errors import KeysError

KEYS_VARIABLE: Final = "ZMQCARLA_KEYS"
INSECURE_VARIABLE: Final = "ZMQCARLA_INSECURE"
_LOOPBACK: Final = re.compile(r"tcp://(127(\.\d+){3}|localhost|\[::1\]):")
_ANYWHERE: Final = re.compile(r"tcp://(0\.0\.0\.0|\[::\]|\*):")
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[\w.@-]{1,64}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class KeyFolder:
    """The keys of one user."""

    path: Path

    # --- make and change ---

    def make(self, broker: str | None) -> None:
        """Make what is missing; nothing that is there changes but the trusted broker, when one is named.

        Args:
            broker: key of a broker on another host; None for a broker on this one.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check(self.path)
        with self._locked():
            if not (self.path / "client.secret").exists():
                self._write("client.secret", _new_secret())
            if broker is not None:
                self._write("broker.public", checked_key(broker))
            elif not (self.path / "broker.public").exists():
                secret = _new_secret()
                self._write("broker.secret", secret)
                self._write("broker.public", public_key(secret))
                self._write("allowed", f"{self.client_key} {_own_name()}")

    def authorize(self, key: str, name: str) -> None:
        """Allow a key, or give it another name.

        Raises:
            KeysError: not a key or a name, or the name belongs to another key.
        """
        if not _NAME.fullmatch(name):
            raise KeysError(f"expected a name of 1 to 64 letters, digits, '.', '_', '@' and '-', found {name!r}")
        with self._locked():
            allowed = self.allowed()
            if name in [known for other, known in allowed.items() if other != key]:
                raise KeysError(f"expected a new name, found {name!r}, which another key has: revoke it first")
            self._write_allowed({**allowed, checked_key(key): name})

    def revoke(self, name_or_key: str) -> str:
        """Allow a key no longer; returns it.

        Raises:
            KeysError: it is not in the list.
        """
        with self._locked():
            allowed = self.allowed()
            found = [key for key, name in allowed.items() if name_or_key in (key, name)]
            if not found:
                known = ", ".join(sorted(allowed.values())) or "nobody"
                raise KeysError(f"expected a name or key among the allowed ones ({known}), found {name_or_key!r}")
            self._write_allowed({key: name for key, name in allowed.items() if key != found[0]})
        return found[0]

    # --- read ---

    @property
    def client_key(self) -> str:
        """The public half of `client.secret`."""
        return public_key(self._read("client.secret"))

    @property
    def broker_key(self) -> str:
        """The key of the broker that is trusted."""
        return checked_key(self._read("broker.public"))

    @property
    def serves(self) -> bool:
        """Whether a broker may serve with these keys."""
        return (self.path / "broker.secret").exists()

    def check_serves(self) -> None:
        """Raise KeysError unless a broker may serve with these keys."""
        checked_key(self._read("broker.secret"))

    def allowed(self) -> dict[str, str]:
        """The allowed keys with their names; empty where no broker serves."""
        if not (self.path / "allowed").exists():
            return {}
        allowed: dict[str, str] = {}
        for line in self._read("allowed").splitlines():
            key, _, name = line.partition(" ")
            if not _KEY.fullmatch(key) or not _NAME.fullmatch(name):
                raise KeysError(f"expected lines of a key and a name in {self.path / 'allowed'}, found {line[:80]!r}")
            allowed[key] = name
        return allowed

    def allowed_version(self) -> tuple[int, int]:
        """Differs after every change of the list."""
        try:
            found = (self.path / "allowed").stat()
        except OSError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    # --- sockets ---

    def secure_client(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket prove our key, and talk only to the trusted broker."""
        socket.curve_serverkey = _z85(self.broker_key)
        socket.curve_secretkey = _z85(self._read("client.secret"))
        socket.curve_publickey = _z85(self.client_key)

    def secure_broker(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket prove the broker's key, and ask the ZAP handler of its context who may come in."""
        socket.curve_secretkey = _z85(self._read("broker.secret"))
        socket.curve_server = True
        socket.zap_domain = b"zmqcarla"

    # --- files ---

    def _read(self, name: str) -> str:
        path = self.path / name
        try:
            self._check(self.path)
            self._check(path)
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise KeysError(
                f"expected keys in {self.path} (or {KEYS_VARIABLE}), found no {name}: run `zmqcarla keygen` on the "
                "broker's host, `zmqcarla keygen --broker KEY` on others; or pass --insecure on both sides "
                f"({INSECURE_VARIABLE}=1) where nobody else reaches the network"
            ) from None

    def _check(self, path: Path) -> None:
        found = path.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise KeysError(
                f"expected {path} to belong to uid {os.getuid()} and to be closed to others (chmod go= {path}), found "
                f"uid {found.st_uid} and mode {found.st_mode & 0o777:o}"
            )

    def _write(self, name: str, text: str) -> None:
        """Replace a file at once, so that nobody ever reads half of it."""
        fresh = self.path / f".{name}.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text + "\n" if text else "")
        fresh.rename(self.path / name)

    def _write_allowed(self, allowed: dict[str, str]) -> None:
        self._write("allowed", "\n".join(f"{key} {name}" for key, name in allowed.items()))

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KeysError(f"expected a folder of keys at {self.path}, found none: run `zmqcarla keygen`") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def key_folder() -> KeyFolder:
    """This user's folder of keys; it need not exist."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return KeyFolder(Path(os.environ.get(KEYS_VARIABLE) or Path(config) / "zmqcarla" / "keys"))


def keys_for(address: str) -> KeyFolder | None:
    """The keys that both ends of an address use; None for a plain connection."""
    if not address.startswith("tcp://") or os.environ.get(INSECURE_VARIABLE) == "1":
        return None
    if _LOOPBACK.match(address) and not os.environ.get(KEYS_VARIABLE):
        return None
    return key_folder()


def check_may_serve(address: str) -> None:
    """See that a broker would find the keys that the address wants.

    Raises:
        KeysError: they are missing, or open to others.
    """
    keys = keys_for(address)
    if keys is not None:
        keys.check_serves()


def connect_to_broker(socket: zmq.Socket[bytes], address: str) -> str:
    """Connect a client's or worker's socket, with keys where the address wants them; returns where it connects to.

    Raises:
        KeysError: they are missing, or open to others.
    """
    keys = keys_for(address)
    if keys is not None:
        keys.secure_client(socket)
    endpoint = _ANYWHERE.sub("tcp://127.0.0.1:", address)  # where a broker serves everywhere, it serves here
    socket.connect(endpoint)
    return endpoint


def checked_key(text: str) -> str:
    """A key in the form in which it is kept.

    Raises:
        KeysError: not a key.
    """
    key = text.strip().lower()
    if not _KEY.fullmatch(key):
        raise KeysError(f"expected a key of 64 hex digits as `zmqcarla keygen` prints it, found {text[:80]!r}")
    return key


def public_key(secret: str) -> str:
    """The public half of a secret key."""
    return z85.decode(zmq.curve_public(_z85(secret))).hex()


def _new_secret() -> str:
    return z85.decode(zmq.curve_keypair()[1]).hex()


def _z85(key: str) -> bytes:
    """A key in ZeroMQ's own text form, in which shells see quotes and wildcards."""
    return z85.encode(bytes.fromhex(checked_key(key)))


def _own_name() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", os.uname().nodename)[:40]
    return f"uid{os.getuid()}@{host or 'host'}"
