/*
 * Lets a reader point at the marks of the charts of a page, and zoom into them. The charts are drawn already; this only
 * moves what is there. A chart is an `svg.chart` with plots:
 *
 *   <g class="plot" data-area="LEFT TOP RIGHT BOTTOM" data-x="LOW HIGH START END linear|log" data-y="..."
 *      data-x-label="epoch" data-whole>      edges, values and pixels of the scales; an axis without numbers has none
 *     <g class="ticks x">, <g class="ticks y">          drawn anew while the plot is zoomed, restored afterwards
 *     [data-at="X Y"]      a mark around that pixel: it moves and keeps its size; its <title> is read out
 *     polyline, polygon, line, rect                     stretched with the plot
 *     polyline[data-name][data-values="X:Y ..."]        its corners are read out too
 *
 * Pointer: the nearest mark. Ctrl and wheel (or the wheel alone once the chart has the focus) and pinch zoom, drag moves.
 * Keys: arrows go from mark to mark, + and - zoom, Escape and a double click reset.
 */
(() => {
  "use strict";
  const NEAR = 40, MOST = 40, STEP = 1.6; // pixels to the nearest mark, largest zoom, zoom of a key
  const HINT =
    "Charts: point at one, or tab to it and use the arrow keys, to read values. Ctrl + wheel, pinch, + and − zoom; " +
    "drag moves; double click or Escape resets.";
  const numbers = (text) => text.trim().split(/[\s,]+/).map(Number);
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  let count = 0;

  /** Label of a tick, as the static charts write it: 0.9, 25, 200k, 3M. */
  function label(value) {
    if (Math.abs(value) >= 1e12) return value.toExponential(0).replace("e+", "e");
    for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= 10 * size || (Math.abs(value) >= size && value % (size / 10) === 0))
        return `${+(value / size).toPrecision(6)}${letter}`;
    return `${+value.toPrecision(6)}`;
  }

  function readScale(text) {
    if (!text) return null;
    const [low, high, start, end] = numbers(text);
    const scale = text.endsWith("log") ? d3.scaleLog() : d3.scaleLinear();
    return scale.domain([low, high]).range([start, end]);
  }

  /** Zoom of a turn of the wheel, and of a pinch, which browsers report as small turns with Ctrl. */
  const turned = ({deltaY, deltaMode, ctrlKey}) =>
    -deltaY * (deltaMode === 1 ? 0.05 : 0.002) * (ctrlKey && Math.abs(deltaY) < 50 ? 10 : 1);

  /** Round values for the part of a scale that is seen. */
  function ticksOf(scale, whole) {
    const [low, high] = d3.extent(scale.domain());
    let found = d3.ticks(low, high, 5);
    if (scale.base) {
      const round = scale.ticks(5).filter((value) => /^[125]/.test(value.toExponential()));
      const powers = round.filter((value) => value.toExponential().startsWith("1e"));
      if (round.length > 1) found = round.length > 6 && powers.length > 1 ? powers : round;
    }
    return whole ? found.filter(Number.isInteger) : found;
  }

  /** One plot of a chart: what moves, and how. */
  function readPlot(group) {
    const [left, top, right, bottom] = numbers(group.dataset.area);
    const x = readScale(group.dataset.x), y = readScale(group.dataset.y);
    const moving = [], items = [];
    for (const mark of group.querySelectorAll("[data-at]")) {
      const [atX, atY] = numbers(mark.dataset.at);
      const title = mark.querySelector("title") || mark.parentElement.querySelector(":scope > title");
      if (title && title.textContent) items.push({x: atX, y: atY, text: title.textContent});
      if (mark.localName !== "rect")
        moving.push((px, py) => mark.setAttribute("transform", `translate(${px(atX) - atX} ${py(atY) - atY})`));
    }
    for (const line of group.querySelectorAll("polyline, polygon")) {
      const points = d3.pairs(numbers(line.getAttribute("points"))).filter((_, index) => index % 2 === 0);
      moving.push((px, py) => line.setAttribute("points", points.map(([a, b]) => `${px(a)},${py(b)}`).join(" ")));
      if (!line.dataset.values) continue;
      line.dataset.values.split(" ").forEach((pair, index) => {
        const [a, b] = pair.split(":");
        const text = `${line.dataset.name}, ${group.dataset.xLabel} ${a}: ${b}`;
        if (!items.some((item) => item.text === text)) items.push({x: points[index][0], y: points[index][1], text});
      });
    }
    for (const line of group.querySelectorAll(":scope > line")) {
      const [a, b, c, d] = ["x1", "y1", "x2", "y2"].map((key) => +line.getAttribute(key));
      moving.push((px, py) => d3.select(line).attr("x1", px(a)).attr("y1", py(b)).attr("x2", px(c)).attr("y2", py(d)));
    }
    for (const rect of group.querySelectorAll("rect")) {
      const a = +rect.getAttribute("x"), width = +rect.getAttribute("width");
      moving.push((px) => d3.select(rect).attr("x", px(a)).attr("width", px(a + width) - px(a)));
    }
    group.querySelectorAll("title").forEach((title) => title.remove()); // the browser would show them a second time
    const ticks = [...group.querySelectorAll(":scope > .ticks")].map((own) => ({own, drawn: own.innerHTML}));
    return {group, left, top, right, bottom, x, y, moving, items, ticks, transform: d3.zoomIdentity};
  }

  function drawTicks(plot, own, scale, upright) {
    const {left, top, right, bottom} = plot;
    own.replaceChildren();
    for (const value of ticksOf(scale, upright && "whole" in plot.group.dataset)) {
      const at = scale(value).toFixed(1);
      own.append(make("line", upright ? {class: "grid", x1: at, x2: at, y1: top, y2: bottom}
        : {class: "grid", x1: left, x2: right, y1: at, y2: at}));
      const text = make("text", upright ? {class: "tick", x: at, y: bottom + 18, "text-anchor": "middle"}
        : {class: "tick", x: left - 8, y: +at + 5, "text-anchor": "end"});
      text.textContent = label(value);
      own.append(text);
    }
  }

  /** Where a pixel of the drawing is at the zoom of the plot. */
  const shifted = ({transform, x, y}) => [
    (value) => (x ? transform.applyX(value) : value), (value) => (y ? transform.applyY(value) : value)];

  function redraw(plot) {
    const {transform, x, y} = plot, zoomed = transform.k > 1;
    const [px, py] = shifted(plot);
    plot.moving.forEach((move) => move(px, py));
    for (const {own, drawn} of plot.ticks) {
      const upright = own.classList.contains("x"), scale = upright ? x : y;
      if (!zoomed || !scale) own.innerHTML = drawn;
      else drawTicks(plot, own, upright ? transform.rescaleX(x) : transform.rescaleY(y), upright);
    }
    plot.group.classList.toggle("zoomed", zoomed);
    plot.body.setAttribute("clip-path", zoomed ? `url(#${plot.clip})` : "none");
  }

  /** Put what moves into a group of its own, which is clipped while the plot is zoomed. */
  function clip(plot) {
    const {left, top, right, bottom, group} = plot;
    plot.clip = `clip-${(count += 1)}`;
    const path = make("clipPath", {id: plot.clip});
    path.append(make("rect", {x: left, y: top, width: right - left, height: bottom - top}));
    plot.body = make("g", {class: "marks"});
    plot.body.append(...[...group.children].filter((child) => !child.matches(".ticks, text")));
    plot.halo = make("circle", {class: "halo", r: 9, visibility: "hidden"});
    const surface = make("rect", {class: "surface", x: left, y: top, width: right - left, height: bottom - top});
    group.prepend(path, surface);
    group.append(plot.body, plot.halo);
  }

  function enhance(svg) {
    const plots = [...svg.querySelectorAll("g.plot")].map(readPlot);
    const figure = svg.parentElement;
    const readout = Object.assign(document.createElement("output"), {className: "readout", hidden: true});
    readout.setAttribute("aria-live", "polite");
    figure.classList.add("interactive");
    figure.append(readout);
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "application");
    svg.setAttribute("aria-roledescription", "chart; arrow keys read its values");
    let shown = null;

    const seen = (plot) => {
      const [px, py] = shifted(plot);
      return plot.items.map((item) => ({plot, item, x: px(item.x), y: py(item.y)})).filter(({x, y}) =>
        x > plot.left - 1 && x < plot.right + 1 && y > plot.top - 1 && y < plot.bottom + 1);
    };
    const hide = () => {
      shown = null;
      readout.hidden = true;
      plots.forEach((plot) => plot.halo.setAttribute("visibility", "hidden"));
    };
    const show = (place) => {
      hide();
      if (!place) return;
      shown = place.item;
      d3.select(place.plot.halo).attr("cx", place.x).attr("cy", place.y).attr("visibility", "visible");
      readout.textContent = shown.text;
      readout.hidden = false;
      const frame = figure.getBoundingClientRect(), matrix = svg.getScreenCTM();
      const at = new DOMPoint(place.x, place.y).matrixTransform(matrix);
      const width = readout.offsetWidth, height = readout.offsetHeight;
      const left = Math.max(0, Math.min(at.x - frame.left - width / 2, frame.width - width));
      const above = at.y - frame.top - height - 14;
      readout.style.transform = `translate(${left}px, ${above < 0 ? at.y - frame.top + 16 : above}px)`;
    };
    /** Go to the next mark along an axis, or to the first. */
    const step = (axis, by) => {
      const all = plots.flatMap(seen), other = axis === "x" ? "y" : "x";
      all.sort((a, b) => a[axis] - b[axis] || a[other] - b[other]);
      const place = all.findIndex(({item}) => item === shown);
      show(all[place < 0 ? 0 : Math.max(0, Math.min(place + by, all.length - 1))]);
    };

    for (const plot of plots) {
      clip(plot);
      const {left, top, right, bottom} = plot, edges = [[left, top], [right, bottom]];
      plot.own = d3.select(plot.group);
      plot.own.on("pointermove", (event) => {
        const [x, y] = d3.pointer(event, svg);
        const nearest = d3.least(seen(plot), (place) => Math.hypot(place.x - x, place.y - y));
        show(nearest && Math.hypot(nearest.x - x, nearest.y - y) < NEAR ? nearest : null);
      });
      if (!plot.x && !plot.y) continue;
      plot.zoom = d3.zoom().extent(edges).translateExtent(edges).scaleExtent([1, MOST]).wheelDelta(turned)
        .filter((event) => event.type === "wheel" ? event.ctrlKey || event.metaKey || document.activeElement === svg
          : event.type === "touchstart" ? event.touches.length > 1 || plot.transform.k > 1 : !event.button)
        .on("zoom", ({transform}) => {
          plot.transform = transform;
          hide();
          redraw(plot);
        });
      plot.own.call(plot.zoom).on("dblclick.zoom", () => reset());
    }
    const zoomable = plots.filter((plot) => plot.zoom);
    const reset = () => zoomable.forEach((plot) => plot.own.call(plot.zoom.transform, d3.zoomIdentity));
    const scaleBy = (factor) => zoomable.forEach((plot) => {
      const place = seen(plot).find(({item}) => item === shown);
      plot.own.call(plot.zoom.scaleBy, factor, place ? [place.x, place.y] : undefined);
    });
    const keys = {
      ArrowRight: () => step("x", 1), ArrowLeft: () => step("x", -1), ArrowUp: () => step("y", -1),
      ArrowDown: () => step("y", 1), "+": () => scaleBy(STEP), "=": () => scaleBy(STEP), "-": () => scaleBy(1 / STEP),
      Escape: () => (hide(), reset()),
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    addEventListener("beforeprint", () => (hide(), reset()));
  }

  const charts = [...document.querySelectorAll("figure > svg.chart")].filter((svg) => svg.querySelector("g.plot"));
  charts.forEach(enhance);
  if (charts.length) {
    const hint = Object.assign(document.createElement("p"), {className: "hint", textContent: HINT});
    charts[0].closest(".side-by-side").before(hint);
  }
})();
