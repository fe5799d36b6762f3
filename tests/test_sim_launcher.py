"""The CarlaUE4.sh that stands in for CARLA's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from sim_process import banner_of, connect, free_port

from zmqcarla.sim.launcher import InstallError, install, translate


def test_carlas_arguments_become_ours() -> None:
    words = "/Game/Carla/Maps/Town03 -carla-rpc-port=2010 --Carla-Streaming-Port=0 -RenderOffScreen -nosound"
    ours, unknown = translate([*words.split(), "-quality-level=Low", "-graphicsadapter=1", "-nullrhi", "-warp=9"])
    assert ours == ["--map", "/Game/Carla/Maps/Town03", "--port", "2010"]
    assert unknown == ["-warp=9"]
    assert translate(["-world-port=3000", "-carla-streaming-port=3005"])[0] == [
        *("--map", "Town10HD_Opt", "--port", "3000", "--streaming-port", "3005"),
    ]


def test_a_carla_release_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "CarlaUE4.sh").write_text("#!/bin/sh\nexec CarlaUE4-Linux-Shipping")
    with pytest.raises(InstallError, match="not ours"):
        install(tmp_path)
    fresh = tmp_path / "fresh"
    assert install(fresh) == install(fresh)


def test_a_program_starts_it_as_it_starts_carla(tmp_path: Path) -> None:
    script, port = install(tmp_path), free_port()
    command = [str(script), "Town02", f"-carla-rpc-port={port}", "-RenderOffScreen", "-nosound", "-warp=9"]
    environment = {key: value for key, value in os.environ.items() if key != "CARLA_ROOT"}
    process = subprocess.Popen(
        command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert "map Town02" in banner_of(process)
        _, world = connect(port)
        assert world.get_map().name == "Carla/Maps/Town02"
    finally:
        process.terminate()
        _, noise = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "passed over: -warp=9" in noise
