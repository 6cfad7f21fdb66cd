"""Make .venv from requirements.lock, or say in one line why not. Needs nothing but python3; `make` calls it.

Kept readable for old Pythons, so that they too get the one line instead of a syntax error.
"""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")


def refuse(message):
    sys.stderr.write("environment: " + message + "\n")
    sys.exit(2)


def check():
    version = "%d.%d.%d" % sys.version_info[:3]
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        refuse(
            "%s is Python %s; fahr needs 3.11, 3.12 or 3.13. Install one and name it: make test PYTHON=python3.12"
            % (sys.executable, version)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        refuse(
            "Python %s has no ensurepip, so it cannot make an environment. Install it (Debian, Ubuntu: "
            "apt install python%d.%d-venv) or name another: make test PYTHON=..." % ((version,) + sys.version_info[:2])
        )


def run(*command):
    code = subprocess.call(command, cwd=ROOT)
    if code:
        line = " ".join(command)
        refuse("`%s` ended with %d. Is a package index reachable, and is there 7 GB of disk?" % (line, code))


def main():
    check()
    if not usable():
        run(sys.executable, "-m", "venv", "--clear", VENV)
    # uv itself comes by its pinned hash; it then installs the other two hundred in half a minute.
    run(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", uv_line())
    uv = os.path.join(VENV, "bin", "uv")
    locked = ("--require-hashes", "-r", "requirements.lock", "--build-constraints", "requirements.lock")
    # Compiled once: a worker of Ray loads thousands of modules, and would spend seconds on compiling them each time.
    run(uv, "pip", "install", "-q", "--python", PYTHON, "--compile-bytecode", *locked)
    run(uv, "pip", "install", "-q", "--python", PYTHON, "--no-deps", "--no-build-isolation", "-e", ".")


def usable():
    """Is there a .venv, whole and of a Python in the range? One that was interrupted is made anew."""
    probe = "import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return os.path.exists(PYTHON) and subprocess.call([PYTHON, "-c", probe], stderr=subprocess.DEVNULL) == 0


def uv_line():
    """A requirements file that holds uv alone, cut out of the lock with its hashes."""
    kept = []
    with open(os.path.join(ROOT, "requirements.lock")) as lock:
        for line in lock:
            if line.startswith("uv==") or (kept and line.startswith("    --hash")):
                kept.append(line)
            elif kept:
                break
    kept[-1] = kept[-1].rstrip().rstrip("\\")
    path = os.path.join(VENV, "uv.requirements")
    with open(path, "w") as file:
        file.writelines(kept)
    return path


if __name__ == "__main__":
    main()
