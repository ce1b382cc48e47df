"""
Build the wheel and the sdist, look into them, and test the wheel where the source is not.

Usage: ``python tools/check_package.py``; needs ``build`` and ``virtualenv``. Ends with a status that is not zero at the
first thing that is wrong.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lay_out import ROOT, lay_out

DEPENDENCIES = {"attrs", "requests", "tenacity", "urllib3", "websocket-client"}
IN_WHEEL = {
    f"{package}/{name}" for package in ("resilient_ws", "server_fixture") for name in ("__init__.py", "py.typed")
}
# Those that need nothing but pytest, and so run beside the four dependencies alone.
BARE_TESTS = ("test_package.py", "test_exceptions.py", "test_config.py", "test_events.py", "test_frames.py")
IN_SDIST = {"LICENSE", "README.md", "CHANGELOG.md", "setup.cfg", "tox.ini", "toxfile.py", "tests/test_package.py"}


def run(*command: str, cwd: Path, **more: str) -> None:
    """
    Run one command without anything that would put the source on the path.

    Args:
        command: The program and its arguments.
        cwd: Where to run it.
        more: Further variables of its environment.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, env={**clean, **more}, check=True)


def wheel_faults(names: Iterable[str], requires: Iterable[str]) -> list[str]:
    """
    Say what is wrong with a wheel.

    Args:
        names: The files in it.
        requires: Its ``Requires-Dist`` lines.
    """
    held = set(names)
    faults = [f"the wheel lacks {name}" for name in sorted(IN_WHEEL - held)]
    tops = {name.split("/")[0] for name in held if ".dist-info/" not in name}
    faults += [
        f"the wheel holds {name}, which is no part of it" for name in sorted(tops - {"resilient_ws", "server_fixture"})
    ]
    plain = {line.split(";")[0] for line in requires if "extra ==" not in line}
    needed = {line.split("<")[0].split(">")[0].split("=")[0].strip() for line in plain}
    if needed != DEPENDENCIES:
        faults.append(f"the wheel needs {sorted(needed)} without an extra, it should need {sorted(DEPENDENCIES)}")
    return faults


def look_into(wheel: Path, sdist: Path) -> None:
    """
    End with an error if one of the two is not what we ship.

    Args:
        wheel: The built wheel.
        sdist: The built sdist.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        requires = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    faults = wheel_faults(names, requires)
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    faults += [f"the sdist lacks {name}" for name in sorted(IN_SDIST - held)]
    if faults:
        sys.exit("\n".join(faults))
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(held)} files")


def main() -> None:
    """Build, look, install, test."""
    with tempfile.TemporaryDirectory(prefix="resilient-ws-package-") as name:
        work = Path(name)
        run(sys.executable, "-m", "build", "--outdir", str(work / "dist"), str(ROOT), cwd=work)
        (wheel,), (sdist,) = work.glob("dist/*.whl"), work.glob("dist/*.tar.gz")
        look_into(wheel, sdist)
        run(sys.executable, "-m", "virtualenv", "-q", str(work / "venv"), cwd=work)
        python = str(
            next(
                path
                for path in (work / "venv" / "bin" / "python", work / "venv" / "Scripts" / "python.exe")
                if path.exists()
            )
        )
        run(python, "-m", "pip", "install", "-q", str(wheel), cwd=work)
        run(python, "-m", "pip", "check", cwd=work)
        lay_out(work / "apart")
        tests = [str(work / "apart" / "tests" / name) for name in BARE_TESTS]
        # No extra: what is missing then must be said, not crash.
        run(python, "-m", "pip", "install", "-q", "pytest", "pytest-timeout", cwd=work)
        run(python, "-m", "pytest", *tests, cwd=work / "apart", RESILIENT_WS_BARE="1")


if __name__ == "__main__":
    main()
