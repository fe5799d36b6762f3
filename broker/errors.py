"""Every error that zmqcarla raises on purpose, in one tree.

A text says what was expected, what was found, where, and what to do next. Numbers that a program may want
(time-outs, ports) are fields as well.

    ZmqCarlaError
    |- ProtocolError                  a peer sent something that is not a message of ours
    |  `- ProtocolVersionError        client, broker and worker are of different releases
    |- UnserialisableError            a value cannot travel as msgpack               (TypeError)
    |- BrokerUnavailableError         nobody answers at the address                  (TimeoutError)
    |- AddressInUseError              another broker owns the address                (OSError)
    |- AddressError                   not an address that a broker may serve         (ValueError)
    |- ConfigError                    a setting of a configuration file is wrong     (ValueError)
    |- AdminError                     an order to a pool that cannot be obeyed       (ValueError)
    |- KeysError                      keys are missing, ill-formed or open to others (ValueError)
    |  `- KeyRefusedError             the other end does not accept them
    |- LeaseError
    |  |- LeaseTimeoutError           the pool had too few free workers in time      (TimeoutError)
    |  |- LeaseRefusedError           no worker would ever serve this request        (ValueError)
    |  `- LeaseLostError              the broker ended the lease
    |- WorkerError
    |  |- WorkerLostError             a worker died and will not come back
    |  |- CommandTimeoutError         a worker did not answer in time                (TimeoutError)
    |  |- SpaceMismatchError          rows of one batch differ in their spaces       (ValueError)
    |  |- QuarantinedEpisodeError     this seed or route has killed too many workers (ValueError)
    |  |- StaleRowError               a row of the batch does not carry this step's number
    |  `- RemoteEnvError              the env raised; carries the worker's traceback
    |- InvalidActionError             wrong shape, dtype or a NaN in an action       (ValueError, TypeError)
    |- SnapshotError                  a snapshot is not there, is broken, or of another world  (ValueError)
    `- SimulatorError
       |- SimulatorStartError         the CARLA server did not come up
       |- SimulatorTimeoutError       the CARLA server did not answer in time        (TimeoutError)
       |- SimulatorVersionError       client and server are of different versions
       |- MapNotFoundError            the map is not there or is not OpenDRIVE       (ValueError)
       `- PortInUseError              a port of the block belongs to somebody else   (OSError)

shm/ stands beside broker/ and imports nothing of ours: its errors (`zmqcarla.shm.segment`) have their own roots.
"""

from __future__ import annotations


class ZmqCarlaError(Exception):
    """Base of every error that zmqcarla raises on purpose."""


class ProtocolError(ZmqCarlaError):
    """A message has the wrong form, an unknown kind, or is larger than allowed."""


class ProtocolVersionError(ProtocolError):
    """The two peers speak different versions of the protocol; the text says which side to upgrade."""


class UnserialisableError(ZmqCarlaError, TypeError):
    """A value has no place in a message; the text names the key under which it was found."""


class BrokerUnavailableError(ZmqCarlaError, TimeoutError):
    """No broker answered within `timeout_s` at `address`."""

    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__(
            f"no broker answered at {address} within {timeout_s:g} s; start one with `zmqcarla up --workers N` or "
            "`zmqcarla broker`; in Python, make_vec_env without an address starts a private pool"
        )
        self.address = address
        self.timeout_s = timeout_s


class AddressInUseError(ZmqCarlaError, OSError):
    """Another broker already serves the address."""


class AddressError(ZmqCarlaError, ValueError):
    """The address has the wrong form."""


class KeysError(ZmqCarlaError, ValueError):
    """Keys are missing, have the wrong form, or lie open to other users."""


class KeyRefusedError(KeysError):
    """The broker does not list this user's key, is not the broker that is trusted, or only one side uses keys."""


class ConfigError(ZmqCarlaError, ValueError):
    """A configuration file, or a setting in it, is not what it has to be; the text names both."""


class AdminError(ZmqCarlaError, ValueError):
    """An order to a running pool (restart, scale, drain) cannot be obeyed; the text says why."""


class LeaseError(ZmqCarlaError):
    """Base of the errors about the right to use rows of a pool."""


class LeaseTimeoutError(LeaseError, TimeoutError):
    """The pool did not have `num_envs` suitable free workers within `timeout_s`."""

    def __init__(self, text: str, timeout_s: float) -> None:
        super().__init__(text)
        self.timeout_s = timeout_s


class LeaseRefusedError(LeaseError, ValueError):
    """No worker of this pool may serve the request, now or later."""


class LeaseLostError(LeaseError):
    """The broker ended the lease; the reason is in the text."""


class WorkerError(ZmqCarlaError):
    """Base of the errors that come from a worker."""


class WorkerLostError(WorkerError):
    """A worker died and its restart budget is spent; the text names the worker, the reason and its log file."""


class CommandTimeoutError(WorkerError, TimeoutError):
    """A command was not answered within `timeout_s`."""

    def __init__(self, text: str, timeout_s: float) -> None:
        super().__init__(text)
        self.timeout_s = timeout_s


class SpaceMismatchError(WorkerError, ValueError):
    """The envs of one batch have different observation or action spaces."""


class QuarantinedEpisodeError(WorkerError, ValueError):
    """The episode that was asked for has killed its worker again and again; the text names it."""


class StaleRowError(WorkerError):
    """A row of the batch does not carry the sequence number of this step."""


class RemoteEnvError(WorkerError):
    """The env in a worker raised an exception whose type this process does not have.

    Attributes:
        remote_type: the qualified name of the exception's type in the worker.
        remote_traceback: the worker's formatted traceback.
    """

    def __init__(self, text: str, remote_type: str, remote_traceback: str) -> None:
        super().__init__(text)
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback


class InvalidActionError(ZmqCarlaError, ValueError, TypeError):
    """An action has the wrong shape or type, or holds NaN or infinity."""


class SnapshotError(ZmqCarlaError, ValueError):
    """A snapshot cannot be had: its id is unknown, its bytes are broken, or it is of another map, env or version."""


class SimulatorError(ZmqCarlaError):
    """Base of the errors about a CARLA server, real or embedded."""


class SimulatorStartError(SimulatorError):
    """The server process ended or did not open its port in time; the text names its log file."""


class SimulatorTimeoutError(SimulatorError, TimeoutError):
    """The server did not answer within `timeout_s`."""

    def __init__(self, text: str, timeout_s: float) -> None:
        super().__init__(text)
        self.timeout_s = timeout_s


class SimulatorVersionError(SimulatorError):
    """Client and server are of different CARLA versions; a mixed pair crashes."""


class MapNotFoundError(SimulatorError, ValueError):
    """The map is neither a town that the server knows nor a readable OpenDRIVE file."""


class PortInUseError(SimulatorError, OSError):
    """A port of the wanted block belongs to another process, which the text names.

    Attributes:
        port: the TCP port that is taken.
    """

    def __init__(self, text: str, port: int) -> None:
        super().__init__(text)
        self.port = port


class EmbeddedSimulatorWarning(UserWarning):
    """No CARLA was named, so the embedded simulator drives; it is not CarlaUE4."""
