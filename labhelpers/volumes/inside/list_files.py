"""List a directory as JSON: `list_files.py DIRECTORY`. `backup._archive_contents` lists an archive in this format."""

import hashlib
import json
import os
import stat
import sys

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}

root = sys.argv[1]
rows: list[list[str | int]] = []
for directory, subdirectories, files in os.walk(root):
    for name in [""] * (directory == root) + subdirectories + files:
        path = os.path.join(directory, name).rstrip("/")
        entry = os.lstat(path)
        kind = KINDS.get(stat.S_IFMT(entry.st_mode), "other")
        content, size = "", 0
        if kind == "file":
            with open(path, "rb") as file:
                content, size = hashlib.file_digest(file, "sha256").hexdigest(), entry.st_size
        elif kind == "link":
            content = os.readlink(path)
        mode = 0 if kind == "link" else stat.S_IMODE(entry.st_mode)
        relative = os.path.relpath(path, root)
        rows.append([relative, kind, mode, entry.st_uid, entry.st_gid, size, content])
print(json.dumps(sorted(rows)))
