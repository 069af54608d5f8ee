"""Every exercise: untouched it fails, typical mistakes fail in their own words, the solution passes twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from labhelpers.lab import Lab
from labhelpers.layers import recipes
from labhelpers.layers.builds import build
from labhelpers.layers.docker_save import read_docker_save
from labhelpers.layers.exercises import diet, folder, go_back, one_whiteout, order, secret_layer, small_site
from labhelpers.layers.image_stack import ImageStack
from labhelpers.layers.recipes import BuildContext

pytestmark = pytest.mark.usefixtures("temporary_state")


def made(lab: Lab, dockerfile: str, tag: str) -> None:
    build(lab, BuildContext(f"ARG BASE\n{dockerfile}"), tag, BASE=lab.image("payload"))


def test_diet(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = diet(lab)
    assert "no image diet:1" in str(exercise.check())
    made(lab, "FROM fat:1\nRUN true > /extra", "diet:1")
    said = str(exercise.check())
    assert "/extra is in diet:1" in said
    made(lab, "FROM fat:1\nRUN chmod 644 /data", "diet:1")
    assert "MiB are in files that are stored more than once" in str(exercise.check())
    assert "a layer on top" in exercise.hint().lower()
    made(lab, "FROM ${BASE}\nRUN dd if=/dev/urandom of=/data bs=1M count=6", "diet:1")
    assert "/data is not the same" in str(exercise.check())
    assert "random" in exercise.hint()
    wasted = "RUN dd if=/dev/urandom of=/tmp/scratch bs=1M count=1\nRUN rm /tmp/scratch"
    made(lab, f"FROM fat:1 AS fat\nFROM ${{BASE}}\n{wasted}\nCOPY --from=fat /data /data", "diet:1")
    assert "are in files that" in str(exercise.check())
    made(lab, "FROM fat:1 AS fat\nFROM ${BASE}\nCOPY --from=fat /data /data", "diet:1")
    assert exercise.check().passed
    assert exercise.check().passed


def test_a_name_that_is_moved_does_not_move_what_was_given(quiet_lab: Lab) -> None:
    lab = quiet_lab
    fat, back = diet(lab), go_back(lab)
    made(lab, "FROM ${BASE}\nRUN echo x > /x", "small:1")
    for name in ("fat:1", "diet:1", "notice:1", "notice:latest"):
        lab.tag("small:1", name)
    assert "/data is missing" in str(fat.check())
    assert "/data is missing" in str(diet(lab).check()), "the cell that is run again"
    lab.run("notice:latest", "sleep 600", name="notice-board", network="none")
    assert "not the image any more that this exercise began with" in str(back.check())
    leaky = secret_layer(lab)
    made(lab, "FROM ${BASE}\nRUN mkdir /app; echo mine > /app/token.txt", "leaky:1")
    finder = lab.run(lab.image("payload"), name="finder", network="none")
    layer = lab.client.images.get("leaky:1").attrs["RootFS"]["Layers"][-1]
    lab.exec(finder, ["sh", "-c", f"echo {layer} > /layer; echo mine > /secret"])
    assert "no diff id of leaky:1" in str(leaky.check())


def test_diet_by_export_counts_too(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = diet(lab)
    fat = lab.run("fat:1", "sleep 60")
    lab.client.api.import_image_from_data(b"".join(fat.export()), repository="diet", tag="1")
    try:
        assert exercise.check().passed, exercise.check()
    finally:
        lab.remove(fat, force=True)
        lab.client.images.remove("diet:1")


def test_secret_layer(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = secret_layer(lab)
    assert "no container named finder" in str(exercise.check())
    finder = lab.run(lab.image("payload"), name="finder")
    assert "no file /layer" in str(exercise.check())

    def write(layer: str, secret: str) -> str:
        lab.exec(finder, ["sh", "-c", f"echo {layer} > /layer; echo {secret} > /secret"])
        return str(exercise.check())

    stack: ImageStack = read_docker_save(lab, "leaky:1", lambda path, part: part.read(100))
    assert "image's id" in write(str(lab.client.images.get("leaky:1").id), "x")
    assert "another layer" in write(stack.layers[4].diff_id, "x")
    assert "whiteout" in exercise.hint()
    assert "no diff id" in write("3", "x")
    holds = next(layer for layer in stack.layers if "app/token.txt" in layer.entries)
    assert "/secret does not hold" in write(holds.diff_id, "x")
    write(holds.diff_id, holds.file_results["app/token.txt"].decode())
    assert exercise.check().passed
    assert exercise.check().passed
    # another way to write it, and through a link
    lab.exec(finder, ["sh", "-c", 'mv /layer /kept; ln -s kept /layer; printf %s "$(cat /secret)" > /secret'])
    # the cell that is run again does not change the secret
    assert secret_layer(lab).check().passed


def test_order(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = order(lab)
    assert "no image ordered:1" in str(exercise.check())
    work = Path(folder("order"))

    def build_both(dockerfile: str, second: str = 'print("version 2")\n') -> str:
        (work / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        (work / "main.py").write_text('print("version 1")\n', encoding="utf-8")
        lab.build(str(work), "ordered:1")
        (work / "main.py").write_text(second, encoding="utf-8")
        lab.build(str(work), "ordered:2")
        return str(exercise.check())

    lab.image("tools")
    given = recipes.ORDER.dockerfile
    assert "main.py is the same" in build_both(given, 'print("version 1")\n')
    assert "2 layers of ordered:2" in build_both(given)
    assert "COPY . copies main.py too" in exercise.hint()
    assert "has no /app/installed" in build_both(given.replace("RUN python3 install.py\n", ""))
    build_both(given)
    (work / "Dockerfile").write_text("FROM ordered:1\nCOPY main.py /app/main.py\n", encoding="utf-8")
    (work / "main.py").write_text('print("version 3")\n', encoding="utf-8")
    lab.build(str(work), "ordered:2")
    assert "ordered:2 stands on ordered:1" in str(exercise.check())
    assert "built twice" in exercise.hint()
    lab.tag("ordered:1", "ordered:0")
    on_top = "FROM ordered:0\nCOPY main.py /app/main.py\n"
    assert "2 layers of ordered:1 hold main.py" in build_both(on_top)
    one_step = "FROM labhelpers/payload\nCOPY . /app\n"
    (work / "installed").write_text("by hand", encoding="utf-8")
    assert "holds /app/installed too" in build_both(one_step)
    touched = "FROM labhelpers/payload\nCOPY deps.txt /app/installed\nCOPY main.py /app/\n"
    assert "nothing that install.py has compiled" in build_both(touched)
    (work / "installed").unlink()
    right = given.replace(
        "COPY . ./\nRUN python3 install.py",
        "COPY deps.txt install.py ./\nRUN python3 install.py\nCOPY main.py ./",
    )
    build_both(right)
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    # the steps that stay, as an image of their own
    (work / "Dockerfile").write_text(right.replace("COPY main.py ./\n", ""), encoding="utf-8")
    lab.build(str(work), "steps:1")
    build_both("FROM steps:1\nCOPY main.py ./\n")
    assert exercise.check().passed, exercise.check()
    (work / "Dockerfile").write_text(right, encoding="utf-8")
    assert Path(folder("order"), "Dockerfile").read_text(encoding="utf-8") == right, (
        "what the reader wrote stays"
    )


def test_one_whiteout(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = one_whiteout(lab)

    def after(script: str) -> str:
        if lab.client.containers.list(all=True, filters={"name": "one-whiteout"}, ignore_removed=True):
            lab.remove("one-whiteout", force=True)
        # not its web server, which needs /www to start
        container = lab.run(lab.image("payload"), "sleep 600", name="one-whiteout")
        lab.exec(container, ["sh", "-c", script])
        return str(exercise.check())

    assert "no container named one-whiteout" in str(exercise.check())
    assert "no whiteout" in after("true")
    assert "no whiteout" in after("echo x > /mine; echo y > /other; rm /mine")
    assert "/other is new" in exercise.hint()
    assert "2 whiteouts" in after("rm /bin/zcat /bin/yes")
    assert "no whiteout" in after("rm -r /www; mkdir /www")
    assert "opaque" in exercise.hint()
    assert "no whiteout" in after("mkdir /other; mv /www/index.html /other/; mv /other/index.html /www/")
    after("mv /www/index.html /page")
    assert exercise.check().passed, "a file that was moved away leaves a whiteout too"
    after("rm /bin/yes /bin/zcat; echo '#!/bin/sh' > /bin/zcat")
    assert exercise.check().passed, "what is written again has none"
    after("rm -r /www")
    assert exercise.check().passed
    assert exercise.check().passed
    lab.stop("one-whiteout", timeout_s=0)
    assert "is not running" in str(exercise.check())


def test_go_back(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = go_back(lab)
    assert "notice:latest is another image" in str(exercise.check())
    made(lab, 'FROM ${BASE}\nRUN echo "open from nine to five" > /notice', "notice:latest")
    rebuilt = lab.client.images.get("notice:latest").id
    if rebuilt != lab.client.images.get("notice:1").id:
        assert "another image" in str(exercise.check())
        assert "Nothing has to be built" in exercise.hint()
    closed = lab.run("notice:latest", ["sleep", "600"], name="notice-board")
    lab.tag("notice:1", "notice:latest")
    assert "made from another image" in str(exercise.check())
    assert "make a new container" in exercise.hint()
    lab.remove(closed, force=True)
    assert "no container named notice-board" in str(exercise.check())
    lab.run("notice:latest", name="notice-board", network="none")
    assert exercise.check().passed
    assert exercise.check().passed
    # by the image's id, under another name at first
    lab.remove("notice-board", force=True)
    old = lab.run(str(lab.client.images.get("notice:1").id), network="none")
    old.rename("notice-board")
    assert exercise.check().passed
    go_back(lab)
    assert exercise.check().passed, "the cell that is run again"


def test_going_back_the_wrong_way(quiet_lab: Lab) -> None:
    exercise = go_back(quiet_lab)
    quiet_lab.tag("notice:latest", "notice:1")
    assert "is the changed image now" in str(exercise.check())
    assert "wrong way" in exercise.hint()


def test_small_site(quiet_lab: Lab) -> None:
    lab = quiet_lab
    exercise = small_site(lab)
    assert "no image site:1" in str(exercise.check())
    work = Path(folder("site"))
    lab.image("tools")
    lab.build(str(work), "site:1")
    assert "it has Python in it" in str(exercise.check())
    (work / "Dockerfile").write_text(
        (work / "Dockerfile").read_text(encoding="utf-8") + "RUN rm -r /usr/bin/python3*\n", encoding="utf-8"
    )
    lab.build(str(work), "site:1")
    assert "its layers hold" in str(exercise.check())
    made(lab, "FROM ${BASE}\nRUN echo page > /www/index.html", "site:1")
    assert "another page" in str(exercise.check())
    made(lab, "FROM ${BASE}\nRUN rm /www/index.html", "site:1")
    assert "no /www/index.html" in str(exercise.check())
    made(lab, "FROM ${BASE}\nRUN mkdir -p /opt/bin && cp /bin/busybox /opt/bin/python3.11", "site:1")
    assert "it has Python in it" in str(exercise.check())
    stages = "FROM labhelpers/tools AS made\nCOPY page.py /\nRUN python3 /page.py > /index.html\n"
    (work / "Dockerfile").write_text(
        f"{stages}FROM labhelpers/payload\nCOPY --from=made /index.html /www/\n", encoding="utf-8"
    )
    lab.build(str(work), "site:1")
    assert exercise.check().passed, exercise.check()
    assert exercise.check().passed
    # without any program, from an image that made the page before
    (work / "Dockerfile").write_text(
        "FROM site:1 AS made\nFROM scratch\nCOPY --from=made /www /www\n", encoding="utf-8"
    )
    lab.build(str(work), "site:1")
    assert exercise.check().passed, exercise.check()


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker command here")
def test_a_commit_by_the_reader_is_the_labs(lab: Lab) -> None:
    from labhelpers.lab import magic

    name = f"t-{lab.session}"
    lab.run(lab.image("payload"), name=name)
    assert magic.run(lab, f"docker commit {name} {name}:1", {}) == 0
    lab.close()
    # not `docker images`: it fails where another test removes an image while it lists
    with pytest.raises(ImageNotFound):
        lab.engine.client.images.get(f"{name}:1")
