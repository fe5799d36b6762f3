"""The demo's pictures: what the cameras see while the demo's driver drives is a road, and the sheets are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zmqcarla.demo.driver import LaneFollowingDriver
from zmqcarla.demo.pictures import contact_sheet, latency_plot, paths_plot
from zmqcarla.workers import ports
from zmqcarla.workers.carla_env import CarlaEnv
from zmqcarla.workers.servers import Server, ServerSpec, launch

MAPS = Path(__file__).parents[1] / ".." / "shared" / "data" / "maps"

# Road surface of the embedded simulator: each channel lies in this range, and they differ by no more than the chroma.
ROAD_LOW, ROAD_HIGH, ROAD_CHROMA = 72, 118, 10


@pytest.fixture(params=["default", "Town01", "Town10HD"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    path = MAPS / f"{request.param}.xodr"
    if request.param != "default" and not path.exists():
        pytest.skip(f"no {path}")
    claim = ports.claim_free(26400)
    town = None if request.param == "default" else str(path)
    running = launch(ServerSpec("embedded", claim.block.rpc, map=town), tmp_path / "log")
    try:
        running.wait_ready(30.0)
        yield running
    finally:
        running.close()
        claim.release()


def road_share(rgb: NDArray[np.uint8]) -> float:
    """Share of road pixels in a picture, uint8 (3, height, width)."""
    low, high = rgb.min(axis=0), rgb.max(axis=0)
    return float(np.mean((low >= ROAD_LOW) & (high <= ROAD_HIGH) & (high - low <= ROAD_CHROMA)))


def test_the_driver_sees_the_road(server: Server) -> None:
    env = CarlaEnv(connect=f"127.0.0.1:{server.spec.port}", simulator="embedded")
    drive = LaneFollowingDriver()
    shares: list[float] = []
    for seed in range(4):
        observation: Any
        observation, _ = env.reset(seed=seed)
        for _ in range(80):
            observation, *_ = env.step(drive(observation))
            shares.append(road_share(observation["rgb"]))
    env.close()
    assert np.median(shares) > 0.15


def test_pictures_are_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 3, 28, 50), dtype=np.uint8)
    contact_sheet(tmp_path / "one.png", images, [f"env {k}" for k in range(6)])
    contact_sheet(tmp_path / "many.png", [images, images], None, ["0 s", "5 s"])
    lane = np.array([[0.0, 0.0], [50.0, 0.0]])
    paths_plot(tmp_path / "paths.png", [lane], [lane + 1.0], [[(50.0, 1.0)]], ["env 0"])
    latency_plot(tmp_path / "latency.png", rng.lognormal(size=100), {"tick": 1.0, "render wait": 0.5})
    for name in ("one", "many", "paths", "latency"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
