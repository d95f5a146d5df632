// What several figures are made of.

const ALL_TASKS = "mean over tasks";
const ALL_CLUSTERS = "all clusters";
const DOTS = { type: "scatter", mode: "markers" };
const LINE = { type: "scatter", mode: "lines" };

/** A curve through the points of `rows`. */
function curve(name, colour, x, y, rows, own = {}) {
  const line = { color: colour, width: 2.2, ...own.line };
  return { ...LINE, mode: "lines+markers", name, x, y, rows, marker: { color: colour, size: 5 }, ...own, line };
}

/** The area between two curves; open where a value is missing. */
function band(x, low, high, colour, own = {}) {
  const [xs, ys] = [[], []];
  let part = [];
  const close = () => {
    const back = [...part].reverse();
    xs.push(...part.map((i) => x[i]), ...back.map((i) => x[i]), null);
    ys.push(...part.map((i) => high[i]), ...back.map((i) => low[i]), null);
    part = [];
  };
  x.forEach((_, i) => (Number.isFinite(low[i]) && Number.isFinite(high[i]) ? part.push(i) : part.length && close()));
  if (part.length) close();
  const look = { fill: "toself", fillcolor: faint(colour, 0.16), line: { width: 0 }, showlegend: false };
  return { ...LINE, x: xs, y: ys, ...look, ...own };
}

/** Box plots at `x` of lists of values, with a point for each median that tells of its box. */
function boxes(name, colour, x, lists, width, describe) {
  const five = lists.map((values) => {
    const [q1, median, q3] = [0.25, 0.5, 0.75].map((q) => quantile(values, q));
    const inside = present(values).filter((v) => v >= q1 - 1.5 * (q3 - q1) && v <= q3 + 1.5 * (q3 - q1));
    return { q1, median, q3, low: Math.min(...inside), high: Math.max(...inside), n: present(values).length };
  });
  const there = five.map((_, i) => i).filter((i) => five[i].n);
  const of = (key) => there.map((i) => five[i][key]);
  const box = {
    type: "box",
    name,
    x: there.map((i) => x[i]),
    q1: of("q1"),
    median: of("median"),
    q3: of("q3"),
    lowerfence: of("low"),
    upperfence: of("high"),
    width,
    line: { color: colour, width: 1.3 },
    fillcolor: faint(colour, 0.3),
    legendgroup: name,
  };
  const medians = {
    ...DOTS,
    name,
    x: box.x,
    y: box.median,
    showlegend: false,
    legendgroup: name,
    marker: { color: colour, size: width > 0.5 ? 14 : 9, opacity: 0.01 },
    rows: there.map((i) => ({
      ...describe(i),
      median: rounded(five[i].median),
      "middle half": `${rounded(five[i].q1)} to ${rounded(five[i].q3)}`,
      tasks: String(five[i].n),
    })),
  };
  return [box, medians];
}

/** A heat map of cells `rows[i][j]` with numbers `z[i][j]`; its scale is beside it, or above where the page is narrow. */
function heat(x, y, z, rows, title, width, own = {}) {
  const font = { size: 13 };
  const above = {
    orientation: "h",
    y: 1.01,
    yanchor: "bottom",
    thickness: 10,
    title: { text: onLines(title, width * 0.6), side: "top", font },
  };
  const beside = { thickness: 12, title: { text: title, side: "right", font } };
  const colorbar = { outlinewidth: 0, ...(isNarrow(width) ? above : beside) };
  return {
    type: "heatmap",
    x,
    y,
    z,
    rows,
    colorscale: "Viridis",
    xgap: 0,
    ygap: 0,
    hoverongaps: true,
    colorbar,
    ...own,
  };
}

/** A scale from blue over the page's own colour to orange, for differences. */
const differences = (colours) => [
  [0, "#0072B2"],
  [0.5, colours.paper],
  [1, "#D55E00"],
];

/** A flat line across. */
function level(y, colours, dash = "solid") {
  return {
    type: "line",
    xref: "paper",
    x0: 0,
    x1: 1,
    y0: y,
    y1: y,
    layer: "below",
    line: { color: colours.zero, width: 1, dash },
  };
}

/** Grey columns over layers without any value. */
function missingColumns(values, colours) {
  return values.flatMap((list, i) => {
    if (list.some(Number.isFinite)) return [];
    const where = { x0: i - 0.45, x1: i + 0.45, yref: "paper", y0: 0, y1: 1 };
    return [{ type: "rect", ...where, fillcolor: colours.missing, line: { width: 0 }, layer: "below" }];
  });
}

/** Sizes of a square heat map of layers or tasks, as wide as there is room. */
function square(width, most = 620) {
  if (isNarrow(width)) return { height: width + 70, width };
  const height = Math.min(most, width * 0.86);
  return { height, width: Math.min(width, height + 90) };
}

/** `count` things in words. */
const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;

/** A name that has room: its middle is left out, since names often differ at their ends. */
function cut(name, most = 24) {
  if (name.length <= most) return name;
  const tail = Math.floor((most - 1) / 2);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}

/** How many letters of a name there is room for beside a plot. */
const nameRoom = (width) => Math.max(10, Math.min(24, Math.floor(width / 26)));

/** The legend of many names: above a plot `tall` pixels high, or under it where the page is narrow; and the height of all. */
function manyNames(names, width, tall) {
  const longest = Math.max(...names.map((name) => cut(name).length)) * 7 + 60;
  const rows = Math.ceil(names.length / Math.max(1, Math.floor((width - 80) / longest)));
  const legend = { orientation: "h", x: 0, maxheight: 22 * rows + 40 };
  const place = isNarrow(width) ? { y: -80 / tall, yanchor: "top" } : { y: 1.01, yanchor: "bottom" };
  return { legend: { ...legend, ...place }, height: tall + 90 + 20 * rows };
}

const BARE = { showticklabels: false, ticks: "", showgrid: false, showline: false, title: "" };

/** The layout of a map, and the room for its points: the legend is beside it, or under it where the page is narrow. */
function mapLayout(width, names, height) {
  const narrow = width < 640;
  const beside = narrow ? 14 : 60 + 7 * Math.max(...names.map((name) => cut(name).length));
  const rows = narrow ? Math.ceil(names.length / Math.max(1, Math.floor(width / 200))) : 0;
  const plot = narrow ? height - 140 : height;
  const layout = {
    height: plot + 24 * rows,
    margin: { l: 14, r: beside, t: 14, b: 14 + 24 * rows },
    legend: narrow
      ? { orientation: "h", y: -0.02, yanchor: "top", maxheight: 24 * rows + 20 }
      : { x: 1.01, y: 1, yanchor: "top" },
    xaxis: { ...BARE },
    yaxis: { ...BARE, scaleanchor: "x" },
  };
  return { layout, room: [width - 14 - beside, plot - 28] };
}

/** Names of points as annotations, and ranges of the axes into which points and names fit: as large as that may be. */
function placeNames(x, y, names, [width, height]) {
  const extent = (values) => Math.max(...present(values)) - Math.min(...present(values)) || 1;
  let scale = Math.min((width - 12) / extent(x), (height - 12) / extent(y)); // pixels for 1
  let placed = namesAt(x, y, names, scale);
  const size = (axis) => placed.bounds[axis + 2] - placed.bounds[axis];
  for (let turn = 0; turn < 40 && (size(0) > width || size(1) > height); turn++) {
    scale *= 0.93;
    placed = namesAt(x, y, names, scale);
  }
  const [left, top, right, bottom] = placed.bounds;
  const around = (middle, side) => [(middle - side / 2) / scale, (middle + side / 2) / scale];
  return {
    annotations: placed.annotations,
    x: around((left + right) / 2, width),
    y: around(-(top + bottom) / 2, height),
  };
}

/** Each name on the first of four sides of its point where it covers neither a name nor a point, and what they take up. */
function namesAt(x, y, names, scale) {
  const spots = x.map((v, i) => [v * scale, -y[i] * scale]);
  const points = spots.map(([a, b]) => [a - 6, b - 6, a + 6, b + 6]).filter((box) => box.every(Number.isFinite));
  const taken = [...points];
  const meet = (p, q) => p[0] < q[2] && q[0] < p[2] && p[1] < q[3] && q[1] < p[3];
  const annotations = spots.flatMap(([a, b], i) => {
    const w = 6.6 * names[i].length;
    const sides = [
      { box: [a + 7, b - 7, a + 7 + w, b + 7], xanchor: "left", xshift: 7 },
      { box: [a - 7 - w, b - 7, a - 7, b + 7], xanchor: "right", xshift: -7 },
      { box: [a - w / 2, b - 21, a + w / 2, b - 7], xanchor: "center", yshift: 14 },
      { box: [a - w / 2, b + 7, a + w / 2, b + 21], xanchor: "center", yshift: -14 },
    ];
    const found = sides.find(({ box }) => Number.isFinite(a) && !taken.some((other) => meet(box, other)));
    if (!found) return [];
    const { box, ...place } = found;
    taken.push(box);
    return [
      {
        x: x[i],
        y: y[i],
        text: escapeText(names[i]),
        showarrow: false,
        yanchor: "middle",
        font: { size: 11 },
        ...place,
      },
    ];
  });
  const end = (best, at) => taken.reduce((found, box) => best(found, box[at]), taken[0]?.[at] ?? 0);
  return { annotations, bounds: [end(Math.min, 0), end(Math.min, 1), end(Math.max, 2), end(Math.max, 3)] };
}
