"""From a request to the bytes of its reply: which function answers, in which shape, and what becomes of errors."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from zmqcarla.sim import wire
from zmqcarla.sim.simulation import Simulation
from zmqcarla.sim.traffic_managers import CueWatch, Renewal
from zmqcarla.sim.wire import Request
from zmqcarla.sim.world import ActorError, SimError

log = logging.getLogger("zmqcarla.sim")


@dataclass(slots=True)
class Session:
    """One client connection.

    Attributes:
        simulation: what its calls act on.
        spawned: ids of actors that it brought into the world, in the episode `episode_id`, and that live.
        host: the client's address.
        traffic_manager_ports: ports of Traffic Managers that it registered.
        cues: whether they take part in its ticks.
        scripted_batch: whether its last batch was a script's, and none that the client sends by itself.
        renewal: what its Traffic Managers have yet to do after it has loaded an episode.
    """

    simulation: Simulation
    spawned: set[int] = field(default_factory=set[int])
    episode_id: int = 0
    host: str = ""
    traffic_manager_ports: set[int] = field(default_factory=set[int])
    cues: CueWatch = field(default_factory=CueWatch)
    scripted_batch: bool = False
    renewal: Renewal = field(default_factory=Renewal)


class Reply(Enum):
    """Shape of a call's reply."""

    VALUE = auto()
    VOID = auto()
    BARE = auto()


@dataclass(frozen=True, slots=True)
class Method:
    """A call that the server answers.

    Attributes:
        function: (session, *arguments) -> result.
        reply: shape of the reply.
        ticks: whether a call with these arguments ticks the world, and so waits for announced subscriptions.
    """

    function: Callable[..., object]
    reply: Reply
    ticks: Callable[[list[Any]], bool]


Methods = Mapping[str, Method]


def never(_arguments: list[Any]) -> bool:
    """For calls that do not tick."""
    return False


def value(function: Callable[..., object]) -> Method:
    """A call with a result."""
    return Method(function, Reply.VALUE, never)


def void(function: Callable[..., object]) -> Method:
    """A call without a result; also every call that the client sends without waiting."""
    return Method(function, Reply.VOID, never)


_OK: dict[Reply, Callable[[int, object], bytes]] = {
    Reply.VALUE: wire.value_reply,
    Reply.VOID: lambda msgid, _result: wire.void_reply(msgid),
    Reply.BARE: wire.bare_reply,
}
_REFUSED: dict[Reply, Callable[[int, str], bytes]] = {
    Reply.VALUE: wire.value_error,
    Reply.VOID: wire.void_error,
    Reply.BARE: wire.envelope_error,
}


def told(method: str, error: SimError) -> str:
    """What a script reads when a call cannot be done."""
    return f"Responding error from function {method}: {error}" if isinstance(error, ActorError) else str(error)


def answer(methods: Methods, session: Session, request: Request) -> bytes:
    """Do what a request asks and return the bytes of the reply; never raises."""
    method = methods.get(request.method)
    if method is None:
        log.warning("unknown call %s", request.method)
        return wire.envelope_error(request.msgid, f"not supported by the embedded simulator: {request.method}")
    try:
        return _OK[method.reply](request.msgid, method.function(session, *request.arguments))
    except SimError as error:
        text = told(request.method, error)
        log.info("%s: %s", request.method, text)
        return _REFUSED[method.reply](request.msgid, text)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        log.warning("%s: arguments not understood: %s", request.method, error, exc_info=True)
        return _REFUSED[method.reply](request.msgid, f"{request.method}: arguments not understood: {error}")
    except Exception as error:
        log.exception("%s failed", request.method)
        return _REFUSED[method.reply](request.msgid, f"{request.method}: internal error: {error!r}")
