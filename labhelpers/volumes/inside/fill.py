"""Fill a directory, `fill.py DIRECTORY BYTES`: a text, random bytes, a secret of another owner, and a link."""

import os
import sys

OWNER = 4321

top, random_bytes = sys.argv[1], int(sys.argv[2])
os.makedirs(f"{top}/reports/2026", exist_ok=True)
with open(f"{top}/hello", "w", encoding="utf-8") as text:
    text.write("hello from the container\n")
with open(f"{top}/reports/2026/numbers", "wb") as numbers:
    numbers.write(os.urandom(random_bytes))
with open(f"{top}/secret", "w", encoding="utf-8") as text:
    text.write(os.urandom(8).hex())
os.chmod(f"{top}/secret", 0o600)
os.chown(f"{top}/secret", OWNER, OWNER)
if not os.path.islink(f"{top}/latest"):
    os.symlink("reports/2026/numbers", f"{top}/latest")
