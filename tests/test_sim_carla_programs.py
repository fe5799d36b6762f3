"""CARLA's own smoke tests and examples, unmodified, against the simulator. They are not part of this repository.

ZMQCARLA_CARLA_PYTHONAPI names the PythonAPI folder of a checkout of CARLA 0.9.16; without it all is skipped. What they
import besides carla (pygame, networkx, shapely, open3d) is looked for in this interpreter. Their port (2000, 3654) and
the Traffic Manager's (8000) are turned to free ones, and their five-second pauses, in which Unreal cleans up, are cut.
A program that asks for what the simulator refuses in words is skipped with those words.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sim_process import free_port, running_sim

FOLDER = os.environ.get("ZMQCARLA_CARLA_PYTHONAPI", "")
pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="ZMQCARLA_CARLA_PYTHONAPI does not name CARLA's PythonAPI folder"),
    pytest.mark.timeout(1600),
]

SMOKE = """
import sys, time, unittest
pause = time.sleep
time.sleep = lambda seconds: pause(0.1 if seconds == 5 else seconds)
import smoke
smoke.TESTING_ADDRESS = ("127.0.0.1", int(sys.argv[1]))
unittest.main(module=None, argv=["smoke", "-v", "smoke." + sys.argv[2]])
"""
EXAMPLE = """
import os, runpy, sys
import carla
port, manager_port, script = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Client(carla.Client):
    def __init__(self, host="127.0.0.1", wanted=2000, *rest, **named):
        wanted = named.pop("port", wanted)
        super().__init__(named.pop("host", host), port if wanted == 2000 else wanted, *rest, **named)

    def get_trafficmanager(self, wanted=8000):
        return super().get_trafficmanager(manager_port if wanted == 8000 else wanted)

carla.Client = Client
sys.path[:0] = [os.path.dirname(script), os.path.join(os.path.dirname(os.path.dirname(script)), "carla")]
sys.argv = sys.argv[3:]
runpy.run_path(script, run_name="__main__")
"""

SMOKE_TESTS = (
    *("test_blueprint", "test_client", "test_collision_determinism", "test_collision_sensor", "test_determinism"),
    *("test_lidar", "test_map", "test_props_loading", "test_sensor_determinism", "test_sensor_tick_time"),
    *("test_snapshot", "test_spawnpoints", "test_streamming", "test_sync", "test_vehicle_physics", "test_world"),
)
# program, arguments, modules that it imports, seconds after which it is interrupted (0: it ends by itself)
EXAMPLES = (
    ("examples/automatic_control.py", "", "pygame networkx shapely", 8),
    ("examples/bounding_boxes.py", "", "pygame", 8),
    ("examples/client_bounding_boxes.py", "", "pygame", 6),
    ("examples/draw_skeleton.py", "", "pygame", 6),
    ("examples/dynamic_weather.py", "", "", 5),
    ("examples/generate_traffic.py", "-n 20 -w 5 --tm-port 8000", "", 12),
    ("examples/get_component_test.py", "", "", 0),
    ("examples/lidar_to_camera.py", "-f 5", "matplotlib", 0),
    ("examples/manual_control.py", "", "pygame", 8),
    ("examples/manual_control_carsim.py", "", "pygame", 6),
    ("examples/manual_control_chrono.py", "", "pygame", 6),
    ("examples/no_rendering_mode.py", "", "pygame", 6),
    ("examples/sensor_synchronization.py", "", "", 6),
    ("examples/start_recording.py", "-n 5 -t 4", "", 0),
    ("examples/show_recorder_actors_blocked.py", "-f test1.log", "", 0),
    ("examples/show_recorder_collisions.py", "-f test1.log", "", 0),
    ("examples/show_recorder_file_info.py", "-f test1.log", "", 0),
    ("examples/synchronous_mode.py", "", "pygame", 6),
    ("examples/tutorial.py", "", "", 0),
    ("examples/tutorial_gbuffer.py", "", "", 0),
    ("examples/vehicle_gallery.py", "", "", 5),
    ("examples/vehicle_physics.py", "", "", 0),
    ("examples/visualize_multiple_sensors.py", "", "pygame", 6),
    ("examples/V2XDemo.py", "", "pygame", 6),
    ("util/apply_texture.py", "--list", "", 0),
    ("util/check_map.py", "", "", 0),
    ("util/config.py", "--list", "", 0),
    ("util/config.py", "--inspect", "", 0),
    ("util/config.py", "--map Town04 --weather WetCloudySunset", "", 0),
    ("util/environment.py", "--clouds 60 --fog 20", "", 0),
    ("util/extract_spawn_points.py", "-o .", "", 0),
    ("util/lane_explorer.py", "-x 10", "", 6),
    ("util/test_connection.py", "", "", 0),
    ("util/vehicle_physics_tester.py", "--filter vehicle.audi.tt --accel", "", 0),
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_sim("--map", "Town10HD_Opt", "--log-level", "error") as port:
        yield port


def run(command: list[str], folder: Path, interrupt_s: float, timeout_s: float = 1500.0) -> tuple[int, str]:
    """Exit code and output of a program that gets Ctrl-C after a while, unless that is 0."""
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        try:
            output, _ = process.communicate(timeout=interrupt_s or timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    return process.returncode, output


def judge(code: int, output: str) -> None:
    """Skip for what the simulator refuses in words, fail for any other exception than the interruption."""
    refused = re.search(r"not supported by the embedded simulator: [\w.]+", output)
    if refused:
        pytest.skip(refused.group())
    if "world.get_random_location_from_navigation()" in output and "NoneType" in output:
        pytest.skip("needs a navigation mesh")
    raised = re.findall(r"^(\w[\w.]*(?:Error|Exception|Interrupt)\b.*)$", output, re.MULTILINE)
    assert all(line.startswith("KeyboardInterrupt") for line in raised), output[-3000:]
    assert code in (0, 1, 130, -signal.SIGINT), output[-3000:]


@pytest.mark.parametrize("module", SMOKE_TESTS)
def test_smoke(port: int, module: str) -> None:
    code, output = run([sys.executable, "-c", SMOKE, str(port), module], Path(FOLDER) / "test", 0)
    judge(code, output)
    assert code == 0, output[-3000:]


@pytest.mark.parametrize(("program", "arguments", "modules", "seconds"), EXAMPLES)
def test_example(port: int, tmp_path: Path, program: str, arguments: str, modules: str, seconds: int) -> None:
    missing = [name for name in modules.split() if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    script = str(Path(FOLDER) / program)
    command = [sys.executable, "-c", EXAMPLE, str(port), str(free_port()), script, *arguments.split()]
    judge(*run(command, tmp_path, seconds))
