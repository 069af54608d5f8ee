"""What the figures show, how results are displayed, and the table of predictions."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes

from labhelpers import persistence
from labhelpers.persistence.data_location import (
    ANONYMOUS_VOLUME,
    BIND,
    CONTAINER_LAYER,
    VOLUME,
    DataLocation,
    DataLocations,
)
from labhelpers.persistence.kills import (
    FLUSHED_AT_COMMIT,
    FLUSHED_EACH_SECOND,
    WRITTEN_EACH_SECOND,
    DurabilityTradeoff,
    Kill,
    Kills,
)
from labhelpers.persistence.shared_data import SharedDataDirectory
from labhelpers.persistence.survival import (
    GONE,
    OPERATIONS,
    STILL_THERE,
    STORAGE_KINDS,
    Survival,
    SurvivalOutcome,
)

matplotlib.use("agg")


def texts(ax: Axes) -> str:
    labels = [text.get_text().replace("\n", " ") for each in (ax, *ax.child_axes) for text in each.texts]
    labels += [ax.get_title(), ax.get_title(loc="left")]
    return "\n".join(labels + [label.get_text() for label in ax.get_yticklabels()])


SURVIVAL = Survival(
    tuple(
        SurvivalOutcome(
            storage, operation, not (storage == "no volume" and operation in OPERATIONS[2:]), "1 a", 1.0
        )
        for operation in OPERATIONS
        for storage in STORAGE_KINDS
    ),
    1,
    (77, 77, 77),
)


def test_the_table_shows_what_was_measured_and_what_was_predicted() -> None:
    predicted = {
        (STORAGE_KINDS[0], OPERATIONS[2]): STILL_THERE,
        (STORAGE_KINDS[1], OPERATIONS[2]): STILL_THERE,
    }
    outcomes = (
        replace(each, predicted=predicted.get((each.storage, each.operation))) for each in SURVIVAL.outcomes
    )
    ax = Survival(tuple(outcomes), 1, (77,)).plot()
    labels = [text.get_text() for text in ax.texts]
    assert sum(each.startswith(STILL_THERE) for each in labels) == 10
    assert sum(each.startswith(GONE) for each in labels) == 2
    assert f"{GONE}\npredicted: still there ✗" in labels
    assert f"{STILL_THERE}\npredicted: still there ✓" in labels
    assert sum(each.endswith("no prediction") for each in labels) == 10
    assert "1 of 2 predictions are correct" in texts(ax)
    assert set(STORAGE_KINDS) | set(OPERATIONS) <= set(labels)
    alone = texts(SURVIVAL.plot())
    assert "prediction" not in alone
    assert alone.count("1 a") == 12


@pytest.mark.usefixtures("temporary_state")
def test_each_prediction_is_saved() -> None:
    from labhelpers.persistence.live import prediction_table

    predictions = persistence.predict_survival()
    assert len({each.slug for each in predictions.cells.values()}) == 12
    assert predictions.chosen == {}
    panel = prediction_table(predictions.cells, STORAGE_KINDS, OPERATIONS)
    menus = [child for child in panel.children[0].children if hasattr(child, "options")]
    assert len(menus) == 12
    menus[2 * 3].value = GONE
    assert persistence.predict_survival().chosen == {("no volume", "remove, create anew"): GONE}
    assert "saved" in panel.children[1].value
    assert SURVIVAL.with_predictions(predictions).correct_predictions == 1
    # stored in a notebook, it is the same for every reader
    assert repr(predictions) == repr(persistence.predict_survival())
    assert predictions._repr_mimebundle_()[0]["text/plain"] == repr(predictions)


def test_locations_show_how_to_mount_the_data_again() -> None:
    locations = DataLocations(
        (
            DataLocation("one", ANONYMOUS_VOLUME, "ab" * 32, False, 100 << 20),
            DataLocation("two", VOLUME, "mine", True, 100 << 20),
            DataLocation("three", BIND, "", True, None),
            DataLocation("four", CONTAINER_LAYER, "", False, 5),
        )
    )
    shown = texts(locations.plot())
    for text in (
        "abababababab…",
        "mine",
        "directory of the host",
        "100 MiB",
        "from the image's VOLUME",
        "container four",
    ):
        assert text in shown
    assert "ab" * 32 not in shown
    assert "not requested" in repr(locations.locations[0])
    assert list(locations.frame()["kind"]) == [ANONYMOUS_VOLUME, VOLUME, BIND, CONTAINER_LAYER]


KILLS = Kills(FLUSHED_AT_COMMIT, (Kill(10, 0, 1, 0.5, 1.0), Kill(20, 0, 0, 0.5, 1.0)))
LOSSES = Kills(WRITTEN_EACH_SECOND, (Kill(401, 200, 0, 0.5, 1.0), Kill(300, 0, 0, 0.5, 1.0)))


def test_kills_are_drawn_one_by_one() -> None:
    shown = texts(KILLS.plot())
    assert "2 kills: 30 rows acknowledged, 0 lost, 1 not acknowledged" in shown
    assert "10 rows acknowledged, 0 lost, 1 not acknowledged" in shown
    assert "20 rows acknowledged, 0 lost" in shown
    lost = texts(LOSSES.plot())
    assert "401 rows acknowledged, 200 lost" in lost
    assert "2 kills at 0 / 0: 701 rows acknowledged, 200 lost" in repr(LOSSES)
    assert list(LOSSES.frame()["lost"]) == [200, 0]


def test_the_tradeoff_shows_rates_and_losses_side_by_side() -> None:
    written = Kills(FLUSHED_EACH_SECOND, (Kill(300, 0, 0, 0.5, 1.0),) * 3)
    tradeoff = DurabilityTradeoff((KILLS, written, LOSSES), ((90.0, 100.0, 200.0), (400.0,), (1000.0,)))
    assert tradeoff.speedup(WRITTEN_EACH_SECOND) == 10
    ax = tradeoff.plot()
    shown = texts(ax)
    for text in ("1 / 1", "2 / 0", "0 / 0", "1,000 · 10.0 times", "up to 200, written in 0.25 s"):
        assert text in shown
    assert "none in 2 kills" in shown
    assert "none in 3 kills" in shown
    bars, points = ax.child_axes
    assert [patch.get_width() for patch in bars.patches] == [100, 400, 1000]  # type: ignore[attr-defined]
    lost = [np.asarray(line.get_xdata()).tolist() for line in points.lines[:3]]
    assert lost == [[0, 0], [0, 0, 0], [200, 0]]


def test_the_error_message_of_the_second_server_is_shown() -> None:
    line = "2026-01-01T00:00:00.000000Z 1 [ERROR] [MY-012574] [InnoDB] Unable to lock ./ibdata1 error: 11"
    shared = SharedDataDirectory(line, False, 0.6, 1, 2, "OK")
    assert shared.message == "[ERROR] [MY-012574] [InnoDB] Unable to lock ./ibdata1 error: 11"
    shown = texts(shared.plot())
    assert "“Unable to lock ./ibdata1 error: 11”" in shown
    assert "check table: OK" in shown
    assert "got no lock error" in texts(SharedDataDirectory("", True, 0.6, 1, 2, "OK").plot())
