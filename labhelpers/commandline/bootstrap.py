"""Create the course's Python environment, then execute `labhelpers.commandline.cli` in it.

`./lab` runs this file with any Python 3.11+ of the machine, so it uses only the standard library and modules of the
package that do the same. Versions and hashes come from `requirements.lock`; the package index is the one that this
machine's pip is configured for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn

if not __package__:
    # run by path: sys.path then begins with the package's own directory
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from labhelpers import errors, state
from labhelpers.engine import apt, hub
from labhelpers.engine.root import may_be_root, with_proxies
from labhelpers.errors import LabError, SetupFailed

LOCK = state.ROOT / "requirements.lock"
NEEDED_BYTES = 900_000_000
"""Disk space of the environment and its downloads: `du -sb env cache/uv` in the state directory."""
REPAIRED_VARIABLE = "LABHELPERS_REPAIRED"
VERBS_WITHOUT_ENVIRONMENT = ("down", "status", "clean")
"""The verbs that work without an environment, and never create one."""

HELP = """usage: ./lab VERB [OPTIONS]

  up      set up what is missing, start JupyterLab and open the course
  run     execute notebooks without a browser; --html DIR writes a report
  test    run the whole test suite, including every notebook
  check   format, style and types of a checkout, in less than a minute
  doctor  report what works, what is missing and how to fix it
  status  show what the lab is running and what it has created
  clean   remove what the lab created on the engine
  down    stop JupyterLab and the private engine; --purge also removes all of the lab's data
  bench   compare the cost of common operations on this engine

The environment does not exist yet: `./lab up` creates it. After that each verb has its own --help.
"""


def main(arguments: list[str]) -> None:
    """Create the environment if necessary, and run the verb in it."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if not _is_current():
        if verb is None or {"-h", "--help"} & set(arguments):
            print(HELP, end="")
            return
        if verb == "doctor" and not _is_usable():
            _run_without_environment().doctor("--json" in arguments, hub.is_reachable(1.5))
        if verb in VERBS_WITHOUT_ENVIRONMENT and not state.location().exists():
            print("the lab has nothing on this machine")
            return
        if verb in VERBS_WITHOUT_ENVIRONMENT and not _is_usable():
            _run_without_environment().run(verb, arguments)
            return
        if verb not in (*VERBS_WITHOUT_ENVIRONMENT, "doctor"):
            _create_environment()
    _point_at_checkout()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(state.ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONPYCACHEPREFIX"] = str(state.home() / "cache" / "python")
    # bytecode is stored in the state directory; without it each process would compile all modules again
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.stdout.flush()
    try:
        os.execv(_python(), [str(_python()), "-m", "labhelpers", *arguments])
    except OSError as error:
        if verb in VERBS_WITHOUT_ENVIRONMENT:
            _run_without_environment().run(verb, arguments)
            return
        raise SetupFailed(
            f"the environment's Python cannot be started: {_python()}",
            hint="the file system may be mounted noexec, or the environment was created on another machine: "
            f"`rm -r {_python().parent.parent}`, or set LABHELPERS_HOME to another directory; then try again",
            engine_message=str(error),
        ) from error


def _run_without_environment() -> ModuleType:
    # imported late: few commands need the code that stops the private engine
    from labhelpers.commandline import without_environment

    return without_environment


def repair(problem: ImportError) -> NoReturn:
    """Create the environment again after an import of one of its packages failed.

    Raises:
        SetupFailed: it was created again already, or this is another environment.
    """
    environment = state.location() / "env"
    if Path(sys.prefix).resolve() != environment.resolve() or os.environ.get(REPAIRED_VARIABLE):
        raise SetupFailed(
            f"{sys.executable} cannot import a library that the course needs",
            hint=f"`rm -r {environment}`, then ./lab up; outside the lab's environment: pip install labhelpers",
            engine_message=f"{type(problem).__name__}: {problem}",
        ) from problem
    (environment / "made-from").unlink(missing_ok=True)
    os.environ[REPAIRED_VARIABLE] = "1"
    os.execv("/bin/sh", ["sh", str(state.ROOT / "lab"), *sys.argv[1:]])


def _python() -> Path:
    return state.location() / "env" / "bin" / "python"


def _lock_hash() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _is_current() -> bool:
    try:
        made_from = (state.location() / "env" / "made-from").read_text(encoding="utf-8")
        return made_from == _lock_hash() and _python().exists()
    except (OSError, UnicodeDecodeError):
        return False


def _is_usable() -> bool:
    """Whether an environment that is incomplete or of another lock file can run a verb."""
    try:
        completed = subprocess.run(
            [_python(), "-c", "import labhelpers.commandline.cli"],
            env={**os.environ, "PYTHONPATH": str(state.ROOT)},
            capture_output=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return completed.returncode == 0


def _create_environment() -> None:
    home = state.home()
    with state.locked("environment", waiting=_print_waiting):
        if _is_current():
            return
        began = time.monotonic()
        environment = home / "env"
        works = _works(environment / "bin" / "python") and not os.environ.get(REPAIRED_VARIABLE)
        free = shutil.disk_usage(home).free
        if not works and free < NEEDED_BYTES:
            raise _no_space()
        print(
            f"environment: {LOCK.read_text(encoding='utf-8').count('==')} packages from requirements.lock",
            flush=True,
        )
        with _reported(environment):
            # an interrupted command leaves an environment that matches neither lock file
            (environment / "made-from").unlink(missing_ok=True)
            if not works:
                _venv(environment)
            _install(environment)
            (environment / "made-from").write_text(_lock_hash(), encoding="utf-8")
        print(f"environment: ready ({time.monotonic() - began:.0f} s)", flush=True)


def _print_waiting() -> None:
    print("environment: waiting for another lab command to create it", flush=True)


@contextmanager
def _reported(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise state.directory_error(error, directory) from error


def _works(python: Path) -> bool:
    """Whether it runs pip: the link dangles after an upgrade of Python, and an incomplete environment has no pip."""
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def _point_at_checkout() -> None:
    """Make this checkout importable in the environment, for pytest and kernels.

    PYTHONPATH, which `./lab` sets, has precedence, so that two checkouts may share one state directory.
    """
    line = f"import sys; sys.path.append({str(state.ROOT)!a})\n"
    for packages in (state.location() / "env").glob("lib*/python3*/site-packages"):
        # a line of code, because a plain path would be read in the encoding of the locale
        file = packages / "labhelpers-checkout.pth"
        with suppress(OSError):
            if not file.exists() or file.read_text(encoding="ascii", errors="replace") != line:
                file.write_text(line, encoding="ascii")


# ── creating the environment ─────────────────────────────────────────────────────────────────────────────────────────


def _venv(environment: Path) -> None:
    make = [sys.executable, "-m", "venv", "--clear", str(environment)]
    status, output = _run(make)
    if status and "ensurepip" in output and apt.is_available():
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not may_be_root():
            raise SetupFailed(
                "this Python has no venv module, and you are not allowed to install packages",
                hint=f"sudo apt-get install {package}; then try again",
            )
        print(f"environment: installing the distribution's {package}", flush=True)
        apt.update(_run_as_root, print)
        apt.install([package], _run_as_root)
        status, output = _run(make)
    if status:
        raise _failed("the Python environment could not be created", output, "")


def _run_as_root(command: Sequence[str], title: str) -> tuple[int, str]:
    print(f"{title} …", flush=True)
    with with_proxies(command) as (command_line, proxies):
        completed = subprocess.run(
            command_line,
            stdin=proxies,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    return completed.returncode, completed.stdout


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command without standard input: (exit status, its output)."""
    completed = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    return completed.returncode, completed.stdout


def _install(environment: Path) -> None:
    python = environment / "bin" / "python"
    index = _index(python)
    settings = {**os.environ, **index, "UV_CACHE_DIR": str(state.home() / "cache" / "uv")}
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
    ]
    only_uv = environment / "uv.lock"
    block = re.search(r"^uv==.*?(?=^\S)", LOCK.read_text(encoding="utf-8") + "end", re.M | re.S)
    only_uv.write_text(block[0] if block else "uv\n", encoding="utf-8")
    uv = [str(python), "-m", "uv", "pip", "sync", "--python", str(python), "--require-hashes", str(LOCK)]
    # fail early if the index is not reachable, before 120 packages are requested
    status, output = _run([*pip, "--retries", "1", "--timeout", "20", "--require-hashes", "-r", str(only_uv)])
    if not status:
        status, output = _run(uv, settings)
    if not status:
        return
    shown_index = _without_password(index.get("UV_DEFAULT_INDEX", os.environ.get("UV_DEFAULT_INDEX", "")))
    if _cause(output, shown_index):
        raise _failed("the packages of requirements.lock could not be installed", output, shown_index)
    # uv has no wheel for some platforms; pip installs from the same lock file, but more slowly
    print("environment: uv failed; using pip, which takes longer", flush=True)
    status, output = _run([*pip, "--require-hashes", "-r", str(LOCK)])
    if status:
        raise _failed("the packages of requirements.lock could not be installed", output, shown_index)


def _no_space() -> SetupFailed:
    home = state.home()
    free = shutil.disk_usage(home).free // 1_000_000
    return SetupFailed(
        f"no space left on device: {free} MB free in {home}, about {NEEDED_BYTES // 1_000_000} MB needed",
        hint="free some space and try again, or use a directory on a larger disk: "
        "`export LABHELPERS_HOME=/path/to/directory`",
    )


def _failed(message: str, output: str, index: str) -> SetupFailed:
    lines = [_without_password(line) for line in output.strip().splitlines() if line.strip()]
    cause = _cause(output, index)
    if cause is None:
        hint = "check the network and `pip config list`, then try again; it resumes where it stopped"
        return SetupFailed(message, hint=hint, engine_message="\n".join(lines[-8:]))
    reason, hint = cause
    return SetupFailed(f"{message}: {reason}", hint=hint, engine_message="\n".join(lines[-4:]))


def _cause(output: str, index: str) -> tuple[str, str] | None:
    """The cause and a hint for a failure of pip, uv or venv that another tool would have as well; else None."""
    at = f" ({index})" if index else ""
    again = "then try again; it resumes where it stopped"
    if re.search(r"No space left on device|os error 28\b|Errno 28\b|[Dd]isk quota exceeded", output):
        space = _no_space()
        return space.message, space.hint
    if re.search(r"Read-only file system|Permission denied|os error (13|30)\b|Errno (13|30)\b", output):
        return (
            f"you do not have permission to write to {state.location()}",
            "use another directory: `export LABHELPERS_HOME=/path/to/directory`",
        )
    if re.search(r"DO NOT MATCH THE HASHES|[Hh]ash mismatch", output):
        return (
            f"a file from the package index{at} does not match its hash in requirements.lock",
            "the download is corrupted or the index serves modified packages: try again, or use another "
            "index: `PIP_INDEX_URL=https://INDEX/simple ./lab up`",
        )
    if re.search(
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|invalid peer certificate|UnknownIssuer", output
    ):
        return (
            f"the certificate of the package index{at} cannot be verified",
            "use your organization's CA certificate: "
            "`PIP_CERT=/path/to/ca.pem SSL_CERT_FILE=/path/to/ca.pem ./lab up`",
        )
    if re.search(
        r"\b(401|403|407)\b.*(Client Error|Unauthorized|Forbidden|Proxy Auth)|HTTP error 40[137]"
        r"|status code.*\b40[137]\b"
        r"|Tunnel connection failed: 407",
        output,
    ):
        return (
            f"the package index{at} or its proxy requires a user name and password",
            f"set them in `pip config list`'s index-url or in HTTPS_PROXY, {again}",
        )
    if re.search(
        r"Failed to establish a new connection|NewConnectionError|Max retries exceeded|Connection refused"
        r"|[Nn]ame resolution|dns error|Read timed out|ConnectTimeout|timed out|error sending request"
        r"|Cannot connect to proxy|ProxyError|Network is unreachable|Connection reset|client error \(Connect\)",
        output,
    ):
        return (
            f"the package index{at} cannot be reached",
            f"check the network, HTTPS_PROXY and `pip config list`, {again}",
        )
    return None


def _without_password(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", text)


def _index(python: Path) -> dict[str, str]:
    """The index settings of this machine's pip as variables for uv, which does not read pip's configuration."""
    _, settings = _run([str(python), "-m", "pip", "config", "list"])
    pip_settings = dict(
        re.findall(r"(?:global|site|user|install|:env:)\.(index-url|extra-index-url)='([^'\n]*)'", settings)
    )
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
    return {
        names[key]: value
        for key, value in pip_settings.items()
        if names[key] not in os.environ and "http" in value
    }


if __name__ == "__main__":
    state.normalize_environment()
    try:
        main(sys.argv[1:])
    except LabError as error:
        errors.print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
