"""What the checkouts miss in newer Pythons, tried without them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from zmqcarla.workers.leaderboard.old_python import LooseVersion, strtobool

PROGRAM = Path(__file__).parents[1] / "workers/leaderboard/old_python.py"


def _run(program: Path, *options: str) -> str:
    """Run a program as one of the checkouts' is run; without site packages with the option -S."""
    command = [sys.executable, *options, str(PROGRAM), str(program), "--routes", "a file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_route_files_are_read_by_their_old_way(tmp_path: Path) -> None:
    (tmp_path / "routes.xml").write_text("<routes><route id='3'><a x='1'/><b x='2'/></route></routes>")
    program = tmp_path / "reads.py"
    program.write_text(
        "import xml.etree.ElementTree as ET\n"
        "from pathlib import Path\n"
        "tree = ET.parse(Path(__file__).parent / 'routes.xml')\n"
        "print([(e.tag, e.attrib['x']) for route in tree.iter('route') for e in route.getchildren()])\n"
    )
    assert _run(program) == "[('a', '1'), ('b', '2')]\n"


def test_a_program_runs_as_if_nobody_had_started_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'a module beside the program'\n")
    program = tmp_path / "program.py"
    program.write_text("import sys, beside\nprint(__name__, sys.argv[1:], beside.NAME)\n")
    assert _run(program) == "__main__ ['--routes', 'a file'] a module beside the program\n"


def test_modules_that_went_away_are_offered(tmp_path: Path) -> None:
    """Without site packages there is no setuptools, which brings both; Python 3.10 and 3.11 have distutils itself."""
    program = tmp_path / "imports.py"
    program.write_text(
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from distutils.version import LooseVersion\n"
        "from distutils.util import strtobool\n"
        "import pkg_resources\n"
        "print(LooseVersion('0.9.16') < LooseVersion('0.9.10'), strtobool('yes'))\n"
        "try:\n"
        "    pkg_resources.get_distribution('no-such-thing')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    assert _run(program, "-S") == "False 1\nPackageNotFoundError\n"


def test_the_version_of_carla_is_found(tmp_path: Path) -> None:
    program = tmp_path / "imports.py"
    program.write_text(
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import pkg_resources\n"
        "print(pkg_resources.get_distribution('carla').version)\n"
    )
    assert _run(program).strip() == version("carla")


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.9", "0.9.10"), ("0.9.10", "0.9.10.1"), ("0.9.10rc1", "0.9.10.1"), ("0.9.15", "0.9.16"), ("0.9.16", "1.0")],
)
def test_versions_compare_by_their_parts(older: str, newer: str) -> None:
    assert LooseVersion(older) < LooseVersion(newer)
    assert LooseVersion(newer) >= LooseVersion(older)
    assert LooseVersion(newer) > older
    assert LooseVersion(older) == older
    assert str(LooseVersion(older)) == older


def test_words_for_yes_and_no() -> None:
    assert [strtobool(word) for word in ("Yes", "t", "on", "1", "no", "F", "off", "0")] == [1] * 4 + [0] * 4
    with pytest.raises(ValueError, match="'maybe'"):
        strtobool("maybe")
