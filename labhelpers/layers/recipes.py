"""The Dockerfiles of this chapter with their build contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BuildContext:
    """A Dockerfile and the other files of its build context.

    Attributes:
        dockerfile: text of the Dockerfile.
        files: name → text of the other files.
    """

    dockerfile: str
    files: Mapping[str, str] = field(default_factory=dict)

    def with_files(self, **changed: str) -> BuildContext:
        """The same Dockerfile with other files; write the dot of a file name as `_`."""
        return BuildContext(
            self.dockerfile,
            {**self.files, **{name.replace("_", "."): text for name, text in changed.items()}},
        )

    def __repr__(self) -> str:
        return self.dockerfile


FIRST = BuildContext(
    """\
ARG BASE
FROM ${BASE} AS files
ARG SALT
RUN mkdir -p /etc && echo ${SALT} > /etc/made

FROM scratch
COPY --from=files / /
RUN mkdir /data && dd if=/dev/urandom of=/data/large bs=1M count=24
RUN dd if=/dev/urandom of=/data/middle bs=1M count=8
RUN mkdir -p /app/docs && echo colour=blue > /app/settings && echo tmp > /app/draft \\
    && for name in one two three; do echo $name > /app/docs/$name; done
RUN echo colour=green > /app/settings && rm /app/draft \\
    && rm -r /app/docs && mkdir /app/docs && echo four > /app/docs/four \\
    && chmod 600 /data/middle
CMD ["sleep", "3600"]
"""
)
"""Five layers: busybox, two large files, a small application, and a change to it."""

SECOND = BuildContext(
    """\
ARG BASE
FROM ${BASE}
RUN dd if=/dev/urandom of=/data/extra bs=1M count=6
"""
)
"""One layer on top of another image."""

SIZED_FILES = BuildContext(
    """\
ARG BASE
FROM ${BASE}
ARG SIZES
RUN mkdir /sized && for size in ${SIZES}; do head -c "$size" /dev/urandom > "/sized/$size"; done
"""
)
"""One layer with files of the requested sizes."""

INSTALL = (Path(__file__).with_name("inside") / "install.py").read_text(encoding="utf-8")
DEPS = "#{salt} asyncio concurrent email encodings http importlib json logging multiprocessing unittest xml\n"
SOURCE = 'print("version {version}")\n'

DEPENDENCIES_FIRST = BuildContext(
    """\
ARG BASE
FROM ${BASE}
WORKDIR /app
COPY deps.txt install.py ./
RUN python3 install.py
CMD ["python3", "main.py"]
COPY main.py ./
""",
    {"deps.txt": DEPS, "install.py": INSTALL, "main.py": SOURCE},
)
SOURCE_FIRST = BuildContext(
    """\
ARG BASE
FROM ${BASE}
WORKDIR /app
CMD ["python3", "main.py"]
COPY main.py deps.txt install.py ./
RUN python3 install.py
""",
    DEPENDENCIES_FIRST.files,
)

PAGE = """\
rows = "".join(f"<tr><td>{n}</td><td>{n * n}</td></tr>" for n in range(1, 101))
print(f"<table>{rows}</table>")
"""
ONE_STAGE = BuildContext(
    """\
ARG BASE
FROM ${BASE}
COPY page.py /
RUN mkdir /www && python3 /page.py > /www/index.html
""",
    {"page.py": PAGE},
)
MULTI_STAGE = BuildContext(
    """\
ARG BASE
ARG SMALL
FROM ${BASE} AS build
COPY page.py /
RUN mkdir /www && python3 /page.py > /www/index.html

FROM ${SMALL}
COPY --from=build /www/index.html /www/index.html
""",
    {"page.py": PAGE},
)

DELETED = BuildContext(
    """\
ARG BASE
FROM ${BASE}
COPY token.txt /token.txt
RUN wc -c < /token.txt > /used
RUN rm /token.txt
""",
    {"token.txt": ""},
)
"""A secret that is copied in, used and deleted."""

ARGUMENT = BuildContext(
    """\
ARG BASE
FROM ${BASE}
ARG TOKEN
RUN echo "$TOKEN" | wc -c > /used
"""
)
"""A secret that is passed as a build argument."""

OTHER_STAGE = BuildContext(
    """\
ARG BASE
FROM ${BASE} AS build
COPY token.txt /token.txt
RUN wc -c < /token.txt > /used

FROM ${BASE}
COPY --from=build /used /used
""",
    {"token.txt": ""},
)
"""A secret that is used in a stage which is not part of the image."""

# --- the initial state of the exercises

WASTEFUL = BuildContext(
    """\
ARG BASE
FROM ${BASE}
ARG SALT
RUN : ${SALT} && dd if=/dev/urandom of=/data bs=1M count=6
RUN chmod 600 /data
RUN dd if=/dev/urandom of=/tmp/scratch bs=1M count=4
RUN rm /tmp/scratch
"""
)
"""The same files can be built without the waste; the salt keeps them out of other build caches."""

LEAKED_SECRET = BuildContext(
    """\
ARG BASE
FROM ${BASE}
RUN mkdir /app && echo hello > /app/greeting
COPY token.txt /app/token.txt
RUN wc -c < /app/token.txt > /app/used
RUN rm /app/token.txt
RUN echo done > /app/state
CMD ["sleep", "3600"]
""",
    {"token.txt": ""},
)

NOTICE = BuildContext(
    """\
ARG BASE
FROM ${BASE}
RUN echo "open from nine to five" > /notice
CMD ["sleep", "3600"]
"""
)
NOTICE_CHANGED = BuildContext(
    """\
ARG BASE
FROM ${BASE}
RUN echo "closed" > /notice
"""
)

ORDER = BuildContext(
    """\
FROM labhelpers/tools
WORKDIR /app
COPY . ./
RUN python3 install.py
CMD ["python3", "main.py"]
""",
    {
        "deps.txt": "asyncio json xml\n",
        "install.py": INSTALL + 'open("installed", "w").write(open("deps.txt").read())\n',
        "main.py": SOURCE.format(version=1),
    },
)

SITE = BuildContext(
    ONE_STAGE.dockerfile.replace("ARG BASE\nFROM ${BASE}", "FROM labhelpers/tools"), {"page.py": PAGE}
)
