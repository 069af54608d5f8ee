"""Create files in a directory, `fill.py DIRECTORY BYTES`: text, random bytes, a link, a secret of another owner."""

import os
import sys

OWNER = 4321

root, random_bytes = sys.argv[1], int(sys.argv[2])
os.makedirs(f"{root}/reports/2026", exist_ok=True)
with open(f"{root}/hello", "w", encoding="utf-8") as text:
    text.write("hello from the container\n")
with open(f"{root}/reports/2026/numbers", "wb") as numbers:
    numbers.write(os.urandom(random_bytes))
with open(f"{root}/secret", "w", encoding="utf-8") as text:
    text.write(os.urandom(8).hex())
os.chmod(f"{root}/secret", 0o600)
os.chown(f"{root}/secret", OWNER, OWNER)
if not os.path.islink(f"{root}/latest"):
    os.symlink("reports/2026/numbers", f"{root}/latest")
