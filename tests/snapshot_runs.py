"""What the tests of snapshots share: a server, steps that are remembered, and their comparison to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server, ServerSpec, launch

Step = tuple[dict[str, Any], float, bool, bool, dict[str, Any]]
Action = NDArray[np.float32]


@contextlib.contextmanager
def running_servers(
    first_port: int, folder: Path, towns: Mapping[str, Path | None], *options: str
) -> Generator[dict[str, Server], None, None]:
    """Embedded simulators with maps, on free ports from `first_port` on; they start together."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, town in towns.items():
            claim = ports.claim_free(first_port)
            stack.callback(claim.release)
            map_file = None if town is None else str(town)
            spec = ServerSpec("embedded", claim.block.rpc, map=map_file, extra=options)
            servers[name] = launch(spec, folder / f"{name}.log")
            stack.callback(servers[name].close)
        for server in servers.values():
            server.wait_ready(40.0)
        yield servers


def connected(server: Server, **settings: Any) -> CarlaEnv:
    """An env on a server."""
    defaults = {"simulator": "embedded", "timeout": 20.0, "observation": "state"}
    return CarlaEnv(**{**defaults, "connect": f"127.0.0.1:{server.spec.port}", **settings})


def some_actions(count: int, seed: int = 1) -> list[Action]:
    """Actions that drive somewhere, brake at times, and now and then go backwards."""
    rng = np.random.default_rng(seed)
    steer = np.repeat(rng.uniform(-0.25, 0.25, count // 10 + 1), 10)[:count]
    throttle = np.repeat(rng.uniform(-0.2, 1.0, count // 10 + 1), 10)[:count]
    brake = np.repeat(rng.choice([0.0, 0.0, 0.0, 0.7], count // 10 + 1), 10)[:count]
    return list(np.stack([steer, throttle, brake], axis=1).astype(np.float32))


def driven(env: CarlaEnv, actions: Sequence[Action]) -> list[Step]:
    """The steps that actions make, until the episode ends."""
    steps: list[Step] = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two values made of dicts, sequences, arrays and plain values; nothing is nearly equal."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(one.keys() ^ other.keys())}"]
        return [each for name in one for each in differences(one[name], other[name], f"{where}.{name}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} against {len(other)}"]
        return [
            each for k, (a, b) in enumerate(zip(one, other, strict=True)) for each in differences(a, b, f"{where}[{k}]")
        ]
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        return [] if same else [f"{where}: arrays, {np.count_nonzero(one != other)} numbers"]
    return [] if one == other else [f"{where}: {one!r} against {other!r}"]


def assert_same(one: Sequence[Step], other: Sequence[Step]) -> None:
    """Steps are alike to the bit."""
    assert len(one) == len(other)
    for k, (a, b) in enumerate(zip(one, other, strict=True)):
        found = differences(a, b)
        assert not found, f"step {k} of {len(one)}: {found[:5]}"


def assert_exact(report: dict[str, Any]) -> None:
    """A restore that reached everything without a tick."""
    assert report["level"] == "state"
    assert (report["ticks_used"], report["missing"], report["extra"]) == (0, 0, 0)
    errors = {name: value for name, value in report.items() if "_error_" in name}
    assert len(errors) == 6
    assert not any(errors.values()), errors
    for name in ("lights_restored", "weather_restored", "criteria_restored", "rng_restored"):
        assert report[name], name
