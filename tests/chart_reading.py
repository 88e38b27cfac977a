"""Reads charts as a reader does: where the ticks of their axes are, and which marks they have."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

SIZES = {"k": 1e3, "M": 1e6, "G": 1e9}


def parse(svg):
    """Return a chart as XML; whatever is not well-formed fails here."""
    return ET.fromstring(svg)


def number(label):
    return float(label[:-1]) * SIZES[label[-1]] if label[-1] in SIZES else float(label)


def numeric(label):
    return re.fullmatch(r"-?[\d.]+(e-?\d+)?[kMG]?", label) is not None


def pixels(svg, vertical, log=False):
    """Return what maps values to pixels, by the first and the last tick that a reader sees."""
    texts = [text for text in parse(svg).iter("text") if text.get("class") == "tick" and numeric(text.text)]
    texts = [text for text in texts if (text.get("text-anchor") == "end") == vertical]
    texts = [text for text in texts if vertical or text.get("y") == texts[0].get("y")]  # no names of marks
    found = [(number(t.text), float(t.get("y")) - 5 if vertical else float(t.get("x"))) for t in texts]
    scale = math.log10 if log else float
    (low, start), (high, stop) = found[0], found[-1]
    assert len(found) > 1
    return lambda value: start + (scale(value) - scale(low)) / (scale(high) - scale(low)) * (stop - start)


def marks(svg):
    """Return title -> middle of each circle that has a title."""
    found = {}
    for group in parse(svg).iter("g"):
        title, circle = group.find("title"), group.find("circle")
        if title is not None and title.text and circle is not None:
            found[title.text] = (float(circle.get("cx")), float(circle.get("cy")))
    return found


def near(one, other):
    return one == pytest.approx(other, abs=0.11)
