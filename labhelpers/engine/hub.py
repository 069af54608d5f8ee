"""Whether this machine can reach Docker Hub. Standard library only, and nothing that Windows lacks."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request


def is_reachable(limit_s: float) -> bool:
    """Whether Hub responds within `limit_s`; any response counts, such as 401 (Registry API, GET /v2/)."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=limit_s)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError):  # unreachable, or an invalid proxy setting
            return
        answered.append(True)

    # name resolution has no timeout: abandon the thread
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(limit_s)
    return bool(answered)
