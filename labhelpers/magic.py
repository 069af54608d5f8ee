"""`%docker` and `%%docker`: the reader's own commands, on the lab's engine, with the lab's labels.

No shell reads the line: words are split as a shell splits them, `$(pwd)` and `$NAME` (a variable of the
notebook, else of the environment) are replaced, and nothing else is. IPython's own `{name}` is off: docker's
`--format '{{.Names}}'` needs its braces.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from string import Template
from typing import IO, TYPE_CHECKING, Any

from labhelpers import ours
from labhelpers.engine.words import RAISED, in_words
from labhelpers.errors import BadInput, LabError

if TYPE_CHECKING:
    from labhelpers.lab import Lab

# what follows these words makes a thing of that kind, which takes labels
_MAKERS = {
    ("run",): "container",
    ("create",): "container",
    ("container", "run"): "container",
    ("container", "create"): "container",
    ("build",): "image",
    ("image", "build"): "image",
    ("builder", "build"): "image",
    ("buildx", "build"): "image",
    ("volume", "create"): "volume",
    ("network", "create"): "network",
    ("commit",): "image",
    ("container", "commit"): "image",
}
# docker's global options that take a value (docker --help)
_GLOBAL_WITH_VALUE: tuple[str, ...] = ("--config", "-c", "--context", "-H", "--host", "-l", "--log-level")
_GLOBAL_WITH_VALUE += ("--tlscacert", "--tlscert", "--tlskey")


def register(lab: Lab) -> None:
    """Make `%docker` and `%%docker` work on `lab`'s engine, if IPython runs. The newest lab wins.

    What the SDK raises of that engine in a cell is said in words, too, wherever in the cell it comes from.
    """
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython
    from IPython.core.magic import no_var_expand

    shell: Any = get_ipython()
    if shell is None:
        return

    @no_var_expand
    def docker(line: str, cell: str | None = None) -> None:
        for words in commands(line if cell is None else f"{line}\n{cell}", shell.user_ns):
            shell.user_ns["_exit_code"] = run(lab, words)
            if shell.user_ns["_exit_code"]:
                print(f"docker ended with exit status {shell.user_ns['_exit_code']}")
                break

    def tell(
        shell: Any, _: type[Exception], error: Exception, traceback: Any, tb_offset: int | None = None
    ) -> None:
        # the SDK's requests may be the reader's own as well: what says that it was sent elsewhere is not the engine's
        url = getattr(getattr(error, "request", None), "url", None)
        elsewhere = url is not None and not url.startswith(lab.client.api.base_url)
        told = error if elsewhere else in_words(lab.engine, error)
        shell.showtraceback((type(told), told, traceback), tb_offset=tb_offset)

    shell.register_magic_function(docker, "line_cell", "docker")
    shell.set_custom_exc(RAISED, tell)


def commands(text: str, variables: Mapping[str, Any]) -> list[list[str]]:
    """The words of each command in `text`: one a line, `\\` continues a line, `#` begins a comment.

    Raises:
        BadInput: quotes that are not closed.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        expanded = Template(line.replace("$(pwd)", os.getcwd())).safe_substitute(os.environ | dict(variables))
        try:
            words = shlex.split(expanded, comments=True)
        except ValueError as error:
            raise BadInput(
                f"this line cannot be read: {error}", hint="close the quotes", engine_words=line
            ) from None
        if words[:1] == ["docker"]:
            words = words[1:]
        if words:
            found.append(words)
    return found


def labelled(words: list[str], chapter: str, session: str) -> list[str]:
    """`words` with the lab's labels, if they make something that can carry them."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _GLOBAL_WITH_VALUE else 1
    for length in (2, 1):
        kind = _MAKERS.get(tuple(words[at : at + length]))
        if kind:
            pairs = ours.labels(kind, chapter, session).items()
            # commit knows no --label: it takes the label as a Dockerfile says it
            flag, form = ("--change", "LABEL {}={}") if "commit" in words[at:][:2] else ("--label", "{}={}")
            extra = [word for name, value in pairs for word in (flag, form.format(name, value))]
            return [*words[: at + length], *extra, *words[at + length :]]
    return words


def run(lab: Lab, words: list[str]) -> int:
    """Run the real CLI, show what it writes as it comes, and give its exit status.

    Raises:
        LabError: there is no `docker` command on this machine.
    """
    cli = shutil.which("docker")
    if cli is None:
        raise LabError(
            "this machine has no `docker` command, which %docker runs",
            hint="install it: on Debian or Ubuntu the package docker-cli (or docker.io); or ./lab up",
        )
    environment = os.environ | {"DOCKER_HOST": lab.engine.address}
    with subprocess.Popen(
        [cli, *labelled(words, lab.chapter, lab.session)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        errors = threading.Thread(target=_copy, args=(process.stderr, sys.stderr), daemon=True)
        errors.start()
        try:
            _copy(process.stdout, sys.stdout)
            errors.join()
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return process.wait()


def _copy(source: IO[bytes], target: Any) -> None:
    while part := os.read(source.fileno(), 1 << 16):
        target.write(part.decode(errors="replace"))
        target.flush()
