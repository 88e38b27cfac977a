"""The charts of a search, against positions that are found in another way."""

import itertools
import random

import pytest
from chart_reading import marks, near, parse, pixels

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.axes import Axis, shorten
from lightning_pocket.reports.emphasis import Label, labels
from lightning_pocket.reports.front_chart import Aim, Pair, front, front_chart
from lightning_pocket.reports.panel_chart import Spot, row_panels, size_panels
from lightning_pocket.reports.parallel_chart import Course, parallel_chart
from lightning_pocket.reports.sweep_charts import Try, best_so_far, history_chart, share_chart, slice_chart

HOSTILE = "<script>alert('x')</script> \"Größe\" & so on"


def test_the_history_has_every_trial_where_its_axes_say():
    values = {0: 0.5, 2: 0.9, 3: 0.7, 5: 0.95, 8: 0.6}
    others = {1: "failed", 4: "pruned", 6: "infeasible", 7: "failed"}
    svg = history_chart(values, others, Axis("Dice"), True, "Trials")
    x, y = pixels(svg, vertical=False), pixels(svg, vertical=True)
    drawn = marks(svg)
    for trial, value in values.items():
        assert drawn[f"trial {trial}: Dice {value:g}"] == pytest.approx((x(trial), y(value)), abs=0.11)
    steps = next(line for line in parse(svg).iter("polyline") if line.get("points").count(" ") > 3)
    best = [(0, 0.5), (2, 0.5), (2, 0.9), (5, 0.9), (5, 0.95), (8, 0.95)]
    expected = [(x(trial), y(value)) for trial, value in best]
    points = [tuple(map(float, point.split(","))) for point in steps.get("points").split()]
    assert [pytest.approx(point, abs=0.11) for point in expected] == points
    titles = [title.text for title in parse(svg).iter("title")]
    assert [title for title in titles if title in [f"trial {n}: {s}" for n, s in others.items()]] == [
        f"trial {n}: {s}" for n, s in others.items()
    ]
    said = parse(svg).find("desc").text
    assert "the best is 0.95, of trial 5" in said
    assert "failed: 1, 7" in said
    assert "pruned: 4" in said
    with pytest.raises(PocketError, match="no result"):
        history_chart({}, others, Axis("Dice"), True, "Trials")


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_so_far_is_that_of_all_before(maximize):
    draw = random.Random(1)
    values = {number: draw.randint(0, 30) / 10 for number in draw.sample(range(100), 50)}
    best = best_so_far(values, maximize)
    for number in values:
        until = [value for other, value in values.items() if other <= number]
        last = [value for other, value in best.items() if other <= number][-1]
        assert last == (max(until) if maximize else min(until))


@pytest.mark.parametrize("log", [False, True])
def test_a_slice_has_every_trial_where_its_axes_say(log):
    draw = random.Random(2)
    places = [*(10 ** draw.uniform(-5, -2) for _ in range(20)), None]
    tries = [Try(place, draw.random(), f"trial {i}", i == 3) for i, place in enumerate(places)]
    svg = slice_chart(tries, Axis("lr", log=log, reach=(1e-5, 1e-2)), Axis("Dice"), "best tenth", "Slice")
    x, y, drawn = pixels(svg, vertical=False, log=log), pixels(svg, vertical=True), marks(svg)
    for entry in tries[:-1]:
        assert drawn[entry.title] == pytest.approx((x(entry.place), y(entry.value)), abs=0.11)
    absent = next(t for t in parse(svg).iter("text") if t.text == "not used")
    assert near(drawn["trial 20"][0], float(absent.get("x")))
    assert drawn["trial 20"][0] > x(1e-2) + 40, "beside the numbers, not among them"
    faint = [group.find("title").text for group in parse(svg).iter("g") if group.get("class") == "faint"]
    assert sorted(filter(None, faint)) == sorted(entry.title for entry in tries if not entry.is_good)


def test_names_stand_in_the_order_of_the_file():
    levels = ("16", "4", "1", "a name that is much too long for its place in the picture 1")
    svg = slice_chart([Try("4", 0.5, "trial 0")], Axis("n", levels=levels), Axis("Dice"), "best", "Slice")
    turned = [text for text in parse(svg).iter("text") if "rotate(-40" in text.get("transform", "")]
    assert [text.find("title").text for text in turned] == list(levels)
    assert [float(text.get("x")) for text in turned] == sorted(float(text.get("x")) for text in turned)
    assert shorten(levels[-1], 11) == "a nam…ure 1"
    assert len(shorten(levels[-1], 24)) == 24
    assert shorten("short", 5) == "short"


def is_better(one, other, aim):
    signs = (1 if aim.more_x else -1), (1 if aim.more_y else -1)
    gains = [sign * (a - b) for sign, a, b in zip(signs, (one.x, one.y), (other.x, other.y), strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@pytest.mark.parametrize(("more_x", "more_y"), list(itertools.product([True, False], repeat=2)))
def test_the_front_is_that_of_brute_force(more_x, more_y):
    draw, aim = random.Random(3), Aim(more_x, more_y)
    for count in (1, 2, 40, 60):
        pairs = [Pair(draw.randint(1, 12), draw.randint(1, 12), str(i), f"trial {i}") for i in range(count)]
        expected = {p.name for p in pairs if not any(is_better(other, p, aim) for other in pairs)}
        assert {pair.name for pair in front(pairs, aim)} == expected
    svg = front_chart(pairs, Axis("x"), Axis("y"), aim, "Front")
    x, y, drawn = pixels(svg, vertical=False), pixels(svg, vertical=True), marks(svg)
    for pair in pairs:
        assert drawn[pair.title] == pytest.approx((x(pair.x), y(pair.y)), abs=0.11)
    faint = {group.find("title").text for group in parse(svg).iter("g") if group.get("class") == "faint"} - {None}
    assert faint == {pair.title for pair in pairs if pair.name not in expected}
    texts = [text.text for text in parse(svg).iter("text") if text.text in {pair.name for pair in pairs}]
    assert texts
    line = max(parse(svg).iter("polyline"), key=lambda line: len(line.get("points")))
    corners = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert all(one[0] == other[0] or one[1] == other[1] for one, other in itertools.pairwise(corners)), "steps"
    for corner_x, corner_y in corners:  # no step reaches what no trial has reached
        assert any(
            (near(corner_x, x(p.x)) or (corner_x < x(p.x)) == more_x)
            and (near(corner_y, y(p.y)) or (corner_y > y(p.y)) == more_y)
            for p in pairs
        )


def box(text):
    half = max(len(text.text) * 8, 8) / 2
    x, y = float(text.get("x")), float(text.get("y")) - 5
    return x - half, y - 7, x + half, y + 7


def test_names_of_marks_hide_nothing():
    draw = random.Random(4)
    places = [(draw.uniform(80, 400), draw.uniform(40, 200)) for _ in range(40)]
    svg = f"<svg>{labels([Label(x, y, f'name {i}') for i, (x, y) in enumerate(places)], [], 20, 220)}</svg>"
    boxes = [box(text) for text in parse(svg).iter("text")]
    assert 5 < len(boxes) <= 40
    others = [(x - 5.9, y - 5.9, x + 5.9, y + 5.9) for x, y in places]
    for one, other in [*itertools.combinations(boxes, 2), *itertools.product(boxes, others)]:
        apart = one[2] <= other[0] + 0.2 or other[2] <= one[0] + 0.2 or one[3] <= other[1] + 0.2
        assert apart or other[3] <= one[1] + 0.2
    packed = [Label(100 + i / 10, 100, "the same place") for i in range(30)]
    assert f"<svg>{labels(packed, [], 90, 110)}</svg>".count("<text") < 30


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (Axis("a", log=True), [1e-5, 1e-2]),
        (Axis("a", log=True), [1e-9, 5e-2]),
        (Axis("a", log=True), [2e-4, 3e-4]),
        (Axis("a", log=True), [1e-5, 1e-2, None]),
        (Axis("a"), [0.00012, 0.00019]),
        (Axis("a"), [123456.0, 123999.0]),
        (Axis("a", whole=True), [0, 1]),
        (Axis("a", whole=True), [7]),
        (Axis("a", whole=True), [8, 16, 32]),
        (Axis("a", whole=True), [0, 104]),
        (Axis("a"), [0.5]),
    ],
)
def test_ticks_of_a_horizontal_axis_have_room_and_cover_the_values(axis, values):
    placed = axis.place(values, 72, 420)
    for (x, label), (after, other) in itertools.pairwise(placed.ticks):
        assert after - x >= (len(label) + len(other)) * 7.3 / 2 + 8
    assert all(71.9 <= x <= 420.1 for x in (*map(placed, values), *(x for x, _ in placed.ticks)))
    if axis.whole:
        assert all(float(label) == int(float(label)) for _, label in placed.ticks)


def test_parallel_lines_go_through_their_values():
    axes = [Axis("lr", log=True), Axis("conv", levels=("a", "b", "c")), Axis("dropout"), Axis("Dice")]
    courses = [
        Course("trial 0", (1e-4, "b", 0.1, 0.5)),
        Course("trial 1", (1e-2, "c", None, 0.9), is_good=True),
        Course("trial 2", (1e-3, "a", 0.5, 0.7)),
    ]
    svg = parallel_chart(axes, courses, "best tenth", "Parallel")
    lines = {}
    for group in parse(svg).iter("g"):
        title, line = group.find("title"), group.find("polyline")
        if line is not None and title is not None and title.text:
            lines[title.text] = ([tuple(map(float, p.split(","))) for p in line.get("points").split()], group)
    assert list(lines) == ["trial 0", "trial 2", "trial 1"], "what stands out lies on top"
    assert lines["trial 1"][1].get("class") == "strong"
    assert len(lines["trial 1"][1].findall("g")) == 4, "and has marks"
    ticks = {}
    for text in parse(svg).iter("text"):
        if text.get("class") == "tick":
            ticks.setdefault(round(float(text.get("y")) - 20), {})["".join(text.itertext())[: -len(text[0].text)]] = (
                float(text.get("x"))
            )
    (rate, conv, dropout, dice) = (ticks[y] for y in sorted(ticks))
    for title, values in (("trial 0", ("0.0001", "b", "0.1", "0.5")), ("trial 2", ("0.001", "a", "0.5", "0.7"))):
        expected = [row[name] for row, name in zip((rate, conv, dropout, dice), values, strict=True)]
        assert [x for x, _ in lines[title][0]] == pytest.approx(expected, abs=0.11)
    assert near(lines["trial 1"][0][2][0], dropout["not used"])
    assert list(conv) == ["a", "b", "c"]
    with pytest.raises(PocketError, match="expected 4 values"):
        parallel_chart(axes, [Course("trial 0", (1.0,))], "best", "Parallel")


def test_bars_are_as_long_as_their_shares():
    shares = {HOSTILE: 0.6, "b": 0.3, "c": 0.1, "d": 0.0}
    svg = share_chart(shares, "Importance")
    widths = [float(rect.get("width")) for rect in parse(svg).iter("rect")]
    assert [width / widths[0] * 0.6 for width in widths] == pytest.approx(list(shares.values()), abs=1e-3)
    assert [t.text for t in parse(svg).iter("text")][::2] == list(shares)


def test_where_names_have_no_room_the_ends_keep_theirs():
    spots = [Spot(f"row {index}", 0.5, "0.5", size=1000 + index) for index in range(30)]
    svg = size_panels({"ours": spots}, "parameters", "Dice", "Sizes")
    named = {text.text for text in parse(svg).iter("text")} & {spot.level for spot in spots}
    assert {"row 0", "row 29"} <= named
    assert len(named) < 30
    with pytest.raises(PocketError, match="nothing to draw"):
        row_panels({"ours": [], "published": []}, Axis("", levels=("row",)), "Dice", "Rows")
