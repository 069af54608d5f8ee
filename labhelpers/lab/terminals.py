"""JupyterLab's terminals use the lab socket, too: a server extension, loaded by `labhelpers.commandline.jupyter`.

The socket lives as long as the server. What a terminal creates belongs to a session of its own, whose chapter is
`terminal`: a terminal is nobody's notebook.
"""

from __future__ import annotations

import atexit
import os
from functools import partial
from pathlib import Path
from typing import Any

from labhelpers.engine.gateway import new_socket_path
from labhelpers.lab import sessions
from labhelpers.lab.labsocket import LabSocket

PATH = "LABHELPERS_TERMINAL_SOCKET"


def environment() -> dict[str, str]:
    """The variables of a server whose terminals use a lab socket."""
    path = new_socket_path("terminal")
    return {"DOCKER_HOST": f"unix://{path}", PATH: str(path)}


def _load_jupyter_server_extension(server: Any) -> None:
    """Called by Jupyter Server as it starts (jupyter-server.readthedocs.io, "Server extensions")."""
    from labhelpers.engine import connect

    engine = connect(revive=False)
    session = sessions.start_session(engine.client, sessions.TERMINAL)
    labels = partial(sessions.labels, chapter=sessions.TERMINAL, session=session.id)
    socket = LabSocket(engine.endpoint, session.id, labels, path=Path(os.environ[PATH]))
    # the session is held for as long as this process lives
    atexit.register(_close, socket, session)
    server.log.info("lab socket: %s, session %s", socket.address, session.id)


def _close(socket: LabSocket, _session: sessions.Session) -> None:
    socket.close()
