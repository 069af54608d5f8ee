"""List a directory as JSON: `list_files.py DIRECTORY`. `backup._of_archive` gives the same rows of an archive."""

import hashlib
import json
import os
import stat
import sys

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}

top = sys.argv[1]
rows: list[list[str | int]] = []
for here, folders, files in os.walk(top):
    for name in [""] * (here == top) + folders + files:
        path = os.path.join(here, name).rstrip("/")
        entry = os.lstat(path)
        kind = KINDS.get(stat.S_IFMT(entry.st_mode), "other")
        contents, size = "", 0
        if kind == "file":
            with open(path, "rb") as file:
                contents, size = hashlib.file_digest(file, "sha256").hexdigest(), entry.st_size
        elif kind == "link":
            contents = os.readlink(path)
        mode = 0 if kind == "link" else stat.S_IMODE(entry.st_mode)
        relative = os.path.relpath(path, top)
        rows.append([relative, kind, mode, entry.st_uid, entry.st_gid, size, contents])
print(json.dumps(sorted(rows)))
