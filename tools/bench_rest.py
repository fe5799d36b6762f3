"""One HTTP service an env, with images as base64 in JSON: what a driving environment behind REST costs.

It stands for the common way to put a simulator behind a network interface (a small web service a simulator, POST /step
with a JSON action, the camera image as a base64 string in the JSON answer), made as cheap as that can be: one
standard-library server process an env, connections kept alive, no delayed packets, raw pixels instead of a JPEG (which
would add some milliseconds for encoding and decoding), and a client that sends all requests before it reads the
first answer. Real services are slower.

    python tools/bench_rest.py bench_envs:BenchImage-v0     serves until its standard input closes; prints its port
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

_TIMEOUT_S = 30.0


def encode(observation: Any) -> Any:
    """Images as base64, vectors as lists, dicts as dicts."""
    if isinstance(observation, dict):
        return {name: encode(leaf) for name, leaf in observation.items()}
    if observation.dtype == np.uint8:
        return {"shape": observation.shape, "base64": base64.b64encode(observation).decode()}
    return observation.tolist()


def decode(answers: list[Any]) -> Any:
    """The batch of `encode`d observations."""
    first = answers[0]
    if isinstance(first, list):
        return np.array(answers, np.float32)
    if "base64" in first:
        images = [np.frombuffer(base64.b64decode(answer["base64"]), np.uint8) for answer in answers]
        return np.stack(images).reshape(len(answers), *first["shape"])
    return {name: decode([answer[name] for answer in answers]) for name in first}


class RestVectorEnv:
    """n services and a client that steps them together.

    Args:
        num_envs: how many.
        env_id: of each.
    """

    def __init__(self, num_envs: int, env_id: str) -> None:
        command = [sys.executable, __file__, env_id]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(num_envs)
        ]
        self._connections: list[http.client.HTTPConnection] = []
        for process in self._processes:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            self._connections.append(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S))

    def _ask(self, path: str, bodies: list[Any]) -> list[Any]:
        for connection, body in zip(self._connections, bodies, strict=True):
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return [json.loads(connection.getresponse().read()) for connection in self._connections]

    def reset(self, seed: int) -> Any:
        """Observations."""
        return decode(self._ask("/reset", [{"seed": seed + row} for row in range(len(self._connections))]))

    def call(self, name: str, argument: Any) -> None:
        """Call a method of every env."""
        self._ask("/call", [{"name": name, "argument": argument}] * len(self._connections))

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """What a gymnasium vector env returns, without autoreset."""
        answers = self._ask("/step", [{"action": action} for action in actions.tolist()])
        rewards, terminated, truncated = (
            np.array([answer[name] for answer in answers]) for name in ("reward", "terminated", "truncated")
        )
        infos: dict[str, Any] = {}
        for key in answers[0]["info"]:
            infos[key] = np.array([answer["info"][key] for answer in answers])
            infos[f"_{key}"] = np.ones(len(answers), np.bool_)
        return decode([answer["observation"] for answer in answers]), rewards, terminated, truncated, infos

    def close(self) -> None:
        """End the services."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


class _Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    env: gymnasium.Env[Any, Any]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = {"/reset": self._reset, "/step": self._step, "/call": self._call}
        payload = json.dumps(answers[self.path](body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _reset(self, body: dict[str, Any]) -> Any:
        return encode(self.env.reset(seed=body["seed"])[0])

    def _step(self, body: dict[str, Any]) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(np.array(body["action"], np.float32))
        return {
            "observation": encode(observation),
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "info": info,
        }

    def _call(self, body: dict[str, Any]) -> Any:
        return self.env.get_wrapper_attr(body["name"])(body["argument"])

    def log_message(self, format: str, *args: Any) -> None:
        """No line a request."""


def _end_with_starter() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _Service.env = gymnasium.make(sys.argv[1])
    server = http.server.HTTPServer(("127.0.0.1", 0), _Service)
    threading.Thread(target=_end_with_starter, daemon=True).start()
    print(server.server_address[1], flush=True)
    server.serve_forever()
