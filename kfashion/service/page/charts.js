// Charts as SVG, drawn to the width of their place, each with its table for those who cannot see it.
// Every function returns an element; colours are those of Okabe and Ito, and dashes tell series apart without them.

const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const HEIGHT = 230;
const MARGIN = { top: 20, right: 12, bottom: 34, left: 58 };

/** An element with attributes and children; text is never read as HTML. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A number for people: four significant digits, exponents where there are many zeros; a dash for null. */
export function number(value, digits = 4) {
  if (typeof value !== "number") return value === null || value === undefined || value === "" ? "–" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size > 0 && size < 1e-4) return Number(value.toPrecision(2)).toExponential();
  return Number(value.toPrecision(digits)).toString();
}

/** A table; columns of numbers are set right. */
export function table(caption, head, rows) {
  const numeric = head.map((_, k) => rows.length > 0 && rows.every((row) => row[k] === null || /^[\d.]+( %)?$/.test(row[k])));
  const cell = (name, value, k, more = {}) =>
    element(name, { class: numeric[k] ? "number" : null, ...more }, value instanceof Node ? value : number(value));
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((value, k) => (k === 0 ? cell("th", value, k, { scope: "row" }) : cell("td", value, k)))));
  return element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((name, k) => cell("th", name, k, { scope: "col" })))),
    element("tbody", {}, ...body)));
}

/**
 * Lines over x. `series` is [{name, points: [[x, y | null], …]}, …]; a null interrupts its line.
 * `marks` are [{x, text}], drawn as vertical lines.
 */
export function lineChart({ title, xLabel, series, tableLabel, marks = [], zero = false }) {
  const known = series.map(({ name, points }) => ({ name, points: points.filter(([, y]) => y !== null) }))
    .filter(({ points }) => points.length > 0);
  const place = element("div");
  const xs = known.flatMap(({ points }) => points.map(([x]) => x));
  const ys = known.flatMap(({ points }) => points.map(([, y]) => y));
  const described = known.map(({ name, points }) =>
    `${name}: ${number(points[0][1])} → ${number(points.at(-1)[1])}`).join("; ");
  onWidth(place, (width) => {
    const svg = frame(width, HEIGHT, `${title}. ${described}`);
    const yTicks = ticks(Math.min(...ys, zero ? 0 : Infinity), Math.max(...ys), 5);
    const x = scale(Math.min(...xs), Math.max(...xs), MARGIN.left, width - MARGIN.right);
    const y = scale(yTicks[0], yTicks.at(-1), HEIGHT - MARGIN.bottom, MARGIN.top);
    for (const tick of yTicks) {
      svg.append(
        shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
        shape("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
    }
    xTicks(svg, x, xs, HEIGHT, xLabel, width);
    for (const { x: at, text } of marks) {
      svg.append(
        shape("line", { class: "axis", x1: x(at), x2: x(at), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, "stroke-dasharray": "2 4" }),
        shape("text", { x: x(at), y: 12 }, text));
    }
    known.forEach(({ name }, k) => drawLine(svg, series.find((each) => each.name === name).points, x, y, k));
    return svg;
  });
  const rows = [...new Set(xs)].sort((a, b) => a - b).map((at) =>
    [at, ...known.map(({ points }) => points.find(([each]) => each === at)?.[1] ?? null)]);
  return element("figure", {},
    element("figcaption", {}, title),
    element("ul", { class: "legend" }, ...known.map(({ name }, k) => element("li", {}, sample(k), name))),
    place,
    element("details", {}, element("summary", {}, tableLabel), table(title, [xLabel, ...known.map(({ name }) => name)], rows)));
}

/** For every row a bar from `min` to `max`, a tick at `median` and a dot at `mean`; `threshold` is a dashed line. */
export function rangeChart({ title, rows, threshold, xLabel, legend }) {
  const place = element("div");
  const high = 34 * rows.length + 42;
  const all = [...rows.flatMap((row) => [row.min, row.max]), threshold];
  onWidth(place, (width) => {
    const left = Math.min(130, width * 0.34);
    const svg = frame(width, high, `${title}. ${rows.map((row) => `${row.name}: ${number(row.mean, 3)}`).join("; ")}`);
    const steps = ticks(Math.min(...all), Math.max(...all), width < 420 ? 4 : 8);
    const x = scale(steps[0], steps.at(-1), left, width - MARGIN.right);
    for (const step of steps) {
      svg.append(
        shape("line", { class: "grid", x1: x(step), x2: x(step), y1: 0, y2: high - 36 }),
        shape("text", { x: x(step), y: high - 22, "text-anchor": "middle" }, number(step)));
    }
    rows.forEach((row, k) => {
      const y = 17 + 34 * k;
      svg.append(
        shape("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, `${row.name} (${row.count})`),
        shape("line", { x1: x(row.min), x2: x(row.max), y1: y, y2: y, stroke: COLORS[0], "stroke-width": 10, "stroke-opacity": 0.3 }),
        shape("line", { x1: x(row.median), x2: x(row.median), y1: y - 8, y2: y + 8, stroke: COLORS[0], "stroke-width": 2 }),
        shape("circle", { cx: x(row.mean), cy: y, r: 4.5, fill: COLORS[1] }));
    });
    svg.append(
      shape("line", { class: "axis", x1: x(threshold), x2: x(threshold), y1: 0, y2: high - 36, "stroke-dasharray": "5 4" }),
      shape("text", { x: (left + width) / 2, y: high - 4, "text-anchor": "middle" }, xLabel));
    return svg;
  });
  return element("figure", {}, element("figcaption", {}, title), element("p", { class: "quiet" }, legend), place);
}

function frame(width, height, label) {
  return shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

function drawLine(svg, points, x, y, k) {
  let path = "";
  let broken = true;
  for (const [at, value] of points) {
    if (value === null) { broken = true; continue; }
    path += `${broken ? "M" : "L"}${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    broken = false;
    if (points.length <= 60) svg.append(shape("circle", { cx: x(at), cy: y(value), r: 2.6, fill: COLORS[k] }));
  }
  svg.append(shape("path", { d: path, fill: "none", stroke: COLORS[k], "stroke-width": 2, "stroke-dasharray": DASHES[k] }));
}

function sample(k) {
  const svg = shape("svg", { width: 26, height: 8, "aria-hidden": "true" });
  svg.append(shape("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: COLORS[k], "stroke-width": 2.5, "stroke-dasharray": DASHES[k] }));
  return svg;
}

function xTicks(svg, x, xs, height, label, width) {
  const whole = ticks(Math.min(...xs), Math.max(...xs), width < 420 ? 5 : 9).filter((tick) =>
    Number.isInteger(tick) && tick >= Math.min(...xs) && tick <= Math.max(...xs));
  const base = height - MARGIN.bottom;
  svg.append(shape("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: base, y2: base }));
  for (const tick of whole) svg.append(shape("text", { x: x(tick), y: base + 16, "text-anchor": "middle" }, number(tick)));
  svg.append(shape("text", { x: (MARGIN.left + width) / 2, y: height - 2, "text-anchor": "middle" }, label));
}

function scale(from, to, start, end) {
  return (value) => (to === from ? (start + end) / 2 : start + ((value - from) / (to - from)) * (end - start));
}

/** Round numbers that enclose [low, high], about `count` of them. */
export function ticks(low, high, count) {
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= raw * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

function onWidth(place, draw) {
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== drawn) place.replaceChildren(draw((drawn = width)));
  }).observe(place);
}
