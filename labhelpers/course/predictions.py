"""Predictions: a question before the cell that answers it, and the comparison afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from labhelpers.course import progress
from labhelpers.errors import BadInput
from labhelpers.results import Result, column, record, with_text_fallback

if TYPE_CHECKING:
    Bundle = tuple[dict[str, Any], dict[str, Any]]

PREDICTIONS = "predictions.json"


@dataclass(frozen=True, eq=False)
class Prediction:
    """A question put before the cell that answers it.

    Attributes:
        slug: a short name, unique in the course; the answer is stored under it.
        question: the question.
        options: the possible answers.
    """

    slug: str
    question: str
    options: tuple[str, ...]

    def choose(self, option: str) -> str | None:
        """Store `option` as the reader's prediction; a later choice replaces it.

        Returns:
            None, or why it could not be stored.

        Raises:
            BadInput: `option` is not among the options.
        """
        if option not in self.options:
            raise BadInput(
                f"“{option}” is not one of the options", hint=f"choose one of: {', '.join(self.options)}"
            )

        def change(stored: dict[str, Any]) -> bool:
            stored[self.slug] = {"chosen": option, "when": progress.now()}
            return True

        return progress.update(PREDICTIONS, _is_prediction, change)

    @property
    def chosen(self) -> str | None:
        """The reader's choice, or None."""
        stored = prediction_for(self.slug)
        return stored if stored in self.options else None

    def __repr__(self) -> str:
        # never the choice: stored in a notebook, it is the same on every machine
        return "\n".join([f"Predict: {self.question}", *(f"  ( ) {option}" for option in self.options)])

    @cached_property
    def panel(self) -> Any:
        """The widget with the question; a click stores the answer."""
        from labhelpers.course.panel import prediction_panel

        return prediction_panel(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return with_text_fallback(self.panel, repr(self))


def predict(slug: str, question: str, options: Sequence[str]) -> Prediction:
    """Ask for a prediction. As the last value of a cell it shows radio buttons; a click stores the answer."""
    return Prediction(slug, question, tuple(options))


def prediction_for(slug: str) -> str | None:
    """The reader's prediction for `slug`, or None."""
    stored = progress.read(PREDICTIONS, _is_prediction).get(slug)
    return str(stored["chosen"]) if stored else None


def _is_prediction(entry: Any) -> bool:
    return isinstance(entry, dict) and "chosen" in entry


@record
class Recall(Result):
    """A prediction beside the measurement. Both differ from reader to reader: tag its cell
    `nbval-ignore-output`.
    """

    prediction: str | None = column("the reader's choice, None if there is none")
    measured: str = column("the measurement, as text with its unit")

    def __repr__(self) -> str:
        return f"You predicted: {self.prediction or 'nothing yet'}\nMeasured:      {self.measured}"

    def _repr_html_(self) -> str:
        rows = (("You predicted", self.prediction or "nothing yet"), ("Measured", self.measured))
        style = "text-align:left;padding:0.4em 2em"
        cells = "".join(
            f'<td style="{style}"><small>{head}</small><br><b>{escape(text)}</b></td>' for head, text in rows
        )
        return f"<table><tr>{cells}</tr></table>"


def recall(slug: str, measured: str) -> Recall:
    """The reader's prediction for `slug`, beside the measurement."""
    return Recall(prediction_for(slug), measured)
