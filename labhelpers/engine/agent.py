"""What runs inside the helper container of `HostView`. Its text is the container's command.

One JSON object a line on standard input, one on standard output. It ends when standard input does.
"""

import json
import os
import sys


def answer(request):  # type: ignore[no-untyped-def]
    """The answer to one request: for each path its text (or link, or names), or the error's name."""
    look = {"read": read, "link": os.readlink, "names": os.listdir}[request["do"]]
    found, failed = {}, {}
    for path in request["paths"]:
        try:
            found[path] = look(path)
        except OSError as error:
            failed[path] = error.strerror or str(error)
    return {"found": found, "failed": failed}


def read(path):  # type: ignore[no-untyped-def]
    """The text of a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # type: ignore[no-untyped-call]
