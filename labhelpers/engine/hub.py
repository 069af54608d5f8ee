"""Whether Docker Hub answers this machine. Standard library only, and nothing that Windows lacks."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request


def is_reachable(limit_s: float) -> bool:
    """Whether Hub answers within `limit_s`; any answer counts, it asks for a password (Registry API, GET /v2/)."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=limit_s)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError):  # no way to it, or a proxy setting that is no address
            return
        answered.append(True)

    # no time limit ends a look-up of a name: the thread is left behind
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(limit_s)
    return bool(answered)
