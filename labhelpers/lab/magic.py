"""`%docker` and `%%docker`: the reader's own commands, through the lab socket.

A shell runs them, so a line means what it means in a terminal: quotes, `$$`, pipes, redirects, `&&`, globs, and
here-documents in a cell. A variable of the notebook is a variable of that shell: `$image` is the value of the
notebook's `image`. IPython's own `{name}` is off, because docker's `--format '{{.Names}}'` needs its braces.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from numbers import Number
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

from docker.models.images import Image
from docker.models.resource import Model

from labhelpers.engine.error_translation import SDK_ERRORS, to_lab_error
from labhelpers.errors import BadInput, NotAvailable
from labhelpers.results import Result

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# what a shell or the docker CLI itself reads: a variable of the notebook with such a name stays in the notebook
_RESERVED_VARIABLES = re.compile(r"PATH|HOME|IFS|ENV|SHELLOPTS|(BASH|DOCKER|LD|LABHELPERS|COMPOSE)_?.*")
_NAME = re.compile(r"\$\{?([A-Za-z_]\w*)")
STOP_TIMEOUT_S = 5.0
"""How long an interrupted command may take to end before it is killed."""
OUTPUT_TIMEOUT_S = 0.5
"""How long the output of a shell that has ended is waited for, where something still holds it open."""


def register(lab: Lab) -> None:
    """Make `%docker` and `%%docker` work on `lab`'s engine, if IPython runs; the newest lab wins.

    So does whatever else in this process asks `DOCKER_HOST`: `!docker`, `%%bash`, an SDK in a cell. What the SDK raises
    in a cell about that engine is shown as a message, wherever in the cell it comes from.
    """
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython
    from IPython.core.magic import no_var_expand

    shell: Any = get_ipython()
    if shell is None:
        return
    lab.use_socket()

    @no_var_expand
    def docker(line: str, cell: str | None = None) -> None:
        status = run(lab, script(line, cell), shell.user_ns)
        shell.user_ns["_exit_code"] = status
        if status:
            print(f"exit status {status}")

    def tell(
        shell: Any, _: type[Exception], error: Exception, traceback: Any, tb_offset: int | None = None
    ) -> None:
        # the SDK's requests may be the reader's own as well: what says that it was sent elsewhere is not the engine's
        url = getattr(getattr(error, "request", None), "url", None)
        elsewhere = url is not None and not url.startswith(lab.client.api.base_url)
        shown = error if elsewhere else to_lab_error(lab.engine, error)
        shell.showtraceback((type(shown), shown, traceback), tb_offset=tb_offset)

    shell.register_magic_function(docker, "line_cell", "docker")
    shell.set_custom_exc(SDK_ERRORS, tell)


def script(line: str, cell: str | None = None) -> str:
    """What the shell runs for `%docker line`, or for a cell that begins with `%%docker line`.

    `docker` itself may be left out on the magic's own line. A cell is a script that stops at the first command that
    fails (`set -e`, POSIX), so that a later line does not work on what an earlier one did not make.
    """
    first = line.strip()
    if first and not re.match(r"docker(\s|$)", first):
        first = f"docker {first}"
    return first if cell is None else f"set -e\n{first}\n{cell}"


def shell_variables(text: str, variables: Mapping[str, Any]) -> dict[str, str]:
    """The variables of the notebook that `text` names (`$NAME`, `${NAME}`), as a shell takes them.

    Text, numbers (NumPy's too), paths and the lab's results are inserted as `str` gives them; a container, network or
    volume of the SDK by its name, an image by its tag, and a list as its quoted items. Other values stay in the
    notebook.
    """
    names = {name for name in _NAME.findall(text) if not _RESERVED_VARIABLES.fullmatch(name)}
    values = {name: _as_text(variables[name]) for name in names if name in variables}
    return {name: value for name, value in values.items() if value is not None and "\0" not in value}


def _as_text(value: object) -> str | None:
    if isinstance(value, Image):
        return str(next(iter(value.tags), value.id))
    if isinstance(value, Model):
        return str(getattr(value, "name", None) or value.id)
    if isinstance(value, (str, Number, PurePath, Result)):
        return str(value)
    if isinstance(value, (list, tuple)):
        items = [_as_text(item) for item in value]
        return None if None in items else shlex.join(item for item in items if item is not None)
    return None


def run(lab: Lab, text: str, variables: Mapping[str, Any]) -> int:
    """Run the script `text` in a shell, show what it writes as it comes, and give its exit status.

    `DOCKER_HOST` is the lab socket. There is no terminal, and nothing to read from. It ends with the shell, as a line
    in a terminal does: what a command in the background (`&`) writes later is shown when it comes.

    Raises:
        LabError: there is no shell or no `docker` command on this machine, or the text or a value is too long.
    """
    shell = shutil.which("bash") or shutil.which("sh")
    if shell is None or shutil.which("docker") is None:
        missing = "`docker` command" if shell else "shell"
        raise NotAvailable(
            f"%docker needs {missing}, which is not installed",
            hint="on Debian or Ubuntu, install the package docker-cli (or docker.io), or run ./lab up"
            if shell
            else "on Windows, run the course in WSL: https://docs.docker.com/desktop/features/wsl/",
        )
    environment = os.environ | shell_variables(text, variables) | {"DOCKER_HOST": lab.socket.address}
    try:
        process = subprocess.Popen(
            [shell, "-c", text],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a process group of its own: an interrupt reaches the whole pipeline, and nothing else
            start_new_session=True,
        )
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise BadInput(
            "the command, or a value of the notebook that it uses, is too long for the operating system (execve(2))",
            hint="write it to a file from Python, and pass the file's name to the command",
            engine_message=str(error),
        ) from None
    assert process.stdout
    assert process.stderr
    copies = [_Copy(process.stdout, sys.stdout), _Copy(process.stderr, sys.stderr)]
    try:
        process.wait()
    except KeyboardInterrupt:
        _terminate(process)
    for copy in copies:
        copy.wait()
    return process.wait()


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the whole pipeline, as Ctrl-C does in a terminal; kill what does not end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S if number == signal.SIGINT else 1)
            return


class _Copy(threading.Thread):
    """Shows what comes from `source` as it comes, until its last writer has closed it."""

    def __init__(self, source: IO[bytes], target: Any) -> None:
        super().__init__(daemon=True)
        self._source, self._target = source, target
        self._last = time.monotonic()
        self.start()

    def wait(self) -> None:
        """Wait until all is shown, or nothing came for `OUTPUT_TIMEOUT_S`: a background process has it open."""
        self._last = time.monotonic()
        while self.is_alive() and time.monotonic() - self._last < OUTPUT_TIMEOUT_S:
            self.join(0.05)

    def run(self) -> None:
        # one character may arrive in two pieces
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self._source:
            while part := os.read(self._source.fileno(), 1 << 16):
                self._target.write(decoder.decode(part))
                self._target.flush()
                self._last = time.monotonic()
        self._target.write(decoder.decode(b"", final=True))
