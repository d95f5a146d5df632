// Colours and axes of all figures, in light and in dark.

// Okabe and Ito's colours: one meaning each in all figures, and lighter where the page is dark.
const LOOK = {
  light: {
    text: "#1c2024",
    soft: "#5b636b",
    line: "#e2e5e8",
    zero: "#7a828a",
    missing: "#e6e6e6",
    paper: "#ffffff",
    "base | C": "#D55E00",
    "E | C": "#0072B2",
    "base | E": "#009E73",
    base: "#D55E00",
    E: "#0072B2",
    C: "#009E73",
    others: ["#B97700", "#CC79A7", "#3F8FC4", "#8A6D00"],
    theirs: "#8A8A8A",
    clusters: ["#332288", "#CC6677", "#117733", "#999933", "#882255", "#389B8A", "#AA4499", "#5C90C4", "#B8860B"],
  },
  dark: {
    text: "#e6e8ea",
    soft: "#a2abb3",
    line: "#343a40",
    zero: "#8a939b",
    missing: "#3a4046",
    paper: "#1d2125",
    "base | C": "#F28C45",
    "E | C": "#56B4E9",
    "base | E": "#3CC79B",
    base: "#F28C45",
    E: "#56B4E9",
    C: "#3CC79B",
    others: ["#E6B23C", "#DFA0C4", "#7CC0EE", "#D8BE4A"],
    theirs: "#9a9a9a",
    clusters: ["#9C8FE8", "#E58A99", "#57B877", "#C9C95A", "#D0629A", "#6BD0BE", "#D57BD5", "#8FBBE8", "#E0B040"],
  },
};
const MARKERS = ["circle", "square", "diamond", "cross", "triangle-up", "star"];
const DASHED = "5px,3px";

const night = window.matchMedia("(prefers-color-scheme: dark)");
let printing = false;

/** The colours of the moment: a print, and a picture for a paper, are light. */
function look(light = printing) {
  return light || !night.matches ? LOOK.light : LOOK.dark;
}

/** Colour and marker of each cluster: markers change where colours begin again. */
function clusterLook(clusters, colours) {
  const distinct = [...new Set(clusters)];
  const many = colours.clusters.length;
  return new Map(
    distinct.map((c, i) => [
      c,
      { color: colours.clusters[i % many], symbol: MARKERS[Math.floor(i / many) % MARKERS.length] },
    ]),
  );
}

/** Colours of models or pairs that have none of their own. */
function colourOf(name, names, colours) {
  if (colours[name]) return colours[name];
  const rest = names.filter((n) => !colours[n]);
  return colours.others[rest.indexOf(name) % colours.others.length];
}

function faint(colour, alpha) {
  return (
    colour +
    Math.round(alpha * 255)
      .toString(16)
      .padStart(2, "0")
  );
}

/** Short names of layers, for ticks. */
const shortLayer = (name) => name.replace("embedding", "emb").replace("final norm", "norm").replace("block ", "");

/** Ticks of an axis of layers, fewer where there is less room. */
function layerTicks(layers, width) {
  const most = Math.max(4, Math.floor(width / 34));
  const names = layers.map(shortLayer);
  const step = [1, 2, 4, 5, 8, 10, 20, 40].find((s) => names.length / s <= most) ?? 80;
  const shown = names
    .map((n, i) => [n, i])
    .filter(([n, i]) => {
      if (!/^\d+$/.test(n)) return true;
      return Number(n) % step === 0 && !(step > 1 && i >= names.length - step && i < names.length - 1);
    });
  return { tickvals: shown.map(([, i]) => i), ticktext: shown.map(([n]) => n), tickmode: "array" };
}

/** A title on as many lines as it needs: Plotly lets a long one run off the picture. */
function onLines(text, room) {
  const most = Math.max(10, Math.floor(room / 6.7));
  const lines = [];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length && longer.length <= most) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.join("<br>");
}

/** Whether names and scales have to make do with little room. */
const isNarrow = (width) => width < 520;

/** A layout with the page's look; `own` adds to it, one level deep for axes. */
function layoutOf(colours, width, own = {}) {
  const axis = {
    gridcolor: colours.line,
    linecolor: colours.soft,
    zeroline: false,
    ticks: "outside",
    ticklen: 3,
    tickcolor: colours.soft,
    automargin: true,
  };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 14, t: 34, b: 46 },
    font: { family: 'system-ui, "Segoe UI", sans-serif', size: 13, color: colours.text },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", xanchor: "left" },
    hoverlabel: {
      bgcolor: colours.paper,
      bordercolor: colours.soft,
      font: { color: colours.text, size: 13 },
      align: "left",
    },
    hovermode: "closest",
    dragmode: "zoom",
    height: 380,
    ...own,
  };
  for (const key of new Set(["xaxis", "yaxis", ...Object.keys(own).filter((k) => /^[xy]axis\d*$/.test(k))])) {
    const mine = own[key] ?? {};
    const room = key.startsWith("y") ? layout.height - 110 : isNarrow(width) ? width * 0.55 : width * 0.8;
    const title = { text: onLines(mine.title ?? "", room), font: { size: 13 } };
    if (!isNarrow(width)) title.standoff = 8; // under a scale that stands above the plot, Plotly measures it from a wrong place
    layout[key] = { ...axis, showgrid: key.startsWith("y"), ...mine, title };
  }
  return layout;
}
