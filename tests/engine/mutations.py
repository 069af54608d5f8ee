"""Texts as property tests change them: lines lost, repeated and in another order, fields lost, added and odd.

In a folder of pytest's `pythonpath`, so that tests of other folders can import it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

QUICK = settings(max_examples=30)
ODD_VALUES = st.sampled_from(
    [
        "",
        "max",
        "none",
        "-1",
        "0",
        "18446744073709551615",
        "99999999999999999999999",
        "9223372036854771712",
        "\u00b2",
    ]
)
ODD_VALUES |= st.sampled_from(
    ["(deleted)", "(unknown)", "\\040", "\\134", "8:0", "a=b", "=", "a=", ":", "0::", "[", "{", "\x0b"]
)
ODD_VALUES |= st.sampled_from(
    ["\u2028", "\udcff", "some", "full", "total=", "avg10=x", "1e9", "0x10", "NaN", "true", '"']
)
ODD_VALUES |= st.sampled_from(["-j", "-A", "*", "#", "\uff11"])
LINE_ENDINGS = st.sampled_from(["\n", "\r\n", " \n", "\n\n"])


@st.composite
def mutated_text(draw: st.DrawFn, seeds: list[str]) -> str:
    """One of the texts, changed."""
    lines = draw(st.sampled_from(seeds)).split("\n")
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        if not lines:
            lines = [draw(ODD_VALUES)]
            continue
        text = lines[at].split(" ")
        place = draw(st.integers(0, len(text) - 1))
        match draw(st.sampled_from(["lose", "repeat", "swap", "cut", "put", "drop", "more"])):
            case "lose":
                del lines[at]
            case "repeat":
                lines.insert(at, lines[at])
            case "swap":
                lines[at], lines[0] = lines[0], lines[at]
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "put":
                lines[at] = " ".join([*text[:place], draw(ODD_VALUES), *text[place + 1 :]])
            case "drop":
                lines[at] = " ".join([*text[:place], *text[place + 1 :]])
            case _:
                lines[at] = " ".join([*text, draw(ODD_VALUES)])
    return draw(LINE_ENDINGS).join(lines)


@st.composite
def mutated_json(draw: st.DrawFn, value: Any, depth: int = 0) -> Any:
    """A JSON value with keys lost, and values of another kind in places."""
    if draw(st.integers(0, 14)) == 0:
        return draw(st.sampled_from([None, "", "x", 0, -1, True, [], {}, [None], {"a": None}, 1.5]))
    if isinstance(value, dict):
        return {
            key: draw(mutated_json(item, depth + 1))
            for key, item in value.items()
            if draw(st.integers(0, 14))
        }
    if isinstance(value, list):
        return [draw(mutated_json(item, depth + 1)) for item in value]
    return value
