// Adapters compared by their weights: distances of all pairs, the map and the tree of tasks.

/** Names in the order of the tree, their clusters, and names without a beginning that all of them share. */
function treeOrder(map) {
  const order = map.numbers("order");
  const names = [...map.text("name")]
    .map((name, i) => [name, order[i]])
    .sort((a, b) => a[1] - b[1])
    .map(([name]) => name);
  return { names, clusters: map.lookup("name", "cluster"), plain: plainNames(names) };
}

function plainNames(names) {
  const starts = new Set(names.map((name) => (name.includes("/") ? name.split("/")[0] : null)));
  const shared = starts.size === 1 && !starts.has(null);
  return new Map(names.map((name) => [name, shared ? name.slice(name.indexOf("/") + 1) : name]));
}

/** A heat map of all pairs of tasks; `cell(i, j)` gives a number and what is told of it, `title` is what the number is. */
function pairHeat({ names, plain }, cell, title, { colours, width }, own = {}) {
  const cells = names.map((i) => names.map((j) => cell(i, j)));
  const index = names.map((_, i) => i);
  const ticks = {
    tickvals: index,
    ticktext: names.map((n) => (isNarrow(width) ? "" : escapeText(cut(plain.get(n), 18)))),
    showgrid: false,
    tickfont: { size: names.length > 40 ? 8 : 11 },
    constrain: "domain",
  };
  const traces = [
    heat(
      index,
      index,
      cells.map((row) => row.map((c) => c.z)),
      cells.map((row) => row.map((c) => c.row)),
      title,
      width,
      own,
    ),
  ];
  const layout = {
    ...square(width, 720),
    plot_bgcolor: colours.missing,
    xaxis: { ...ticks, tickangle: -90 },
    yaxis: { ...ticks, autorange: "reversed", scaleanchor: "x" },
  };
  return { traces, layout };
}

plots.adapter_heatmaps = async ({ adapters, task_map: map }) => {
  const order = treeOrder(map);
  const at = adapters.index(["measure", "module", "task_i", "task_j"]);
  const [value, text] = [adapters.numbers("mean_over_layers"), adapters.text("mean_over_layers")];
  const measures = adapters.levels("measure");
  const first = ["grassmann_columns_share", "grassmann_columns", "cosine"].filter((m) => measures.includes(m));
  const choice = measureChoice("Measure", measures, first);
  return {
    controls: { measure: choice.control, module: { label: "Module", options: adapters.levels("module") } },
    draw({ measure, module }, page) {
      const cell = (i, j) => {
        const row = at(choice.name(measure), module, i, j);
        const z = i === j ? NaN : value[row];
        return {
          z,
          row: {
            first: i,
            second: j,
            [measure]: text[row],
            clusters: `${order.clusters.get(i) || "none"}, ${order.clusters.get(j) || "none"}`,
          },
        };
      };
      return pairHeat(order, cell, measure, page);
    },
  };
};

plots.adapter_map = async ({ task_map: map }) => {
  const kinds = { pca: "principal components", mds: "classical scaling" };
  const clusters = map.text("cluster");
  const plain = plainNames(map.text("name"));
  return {
    controls: {
      kind: { label: "Map", options: Object.values(kinds) },
      names: { label: "Names", options: ["shown", "hidden"] },
    },
    draw({ kind, names }, { colours, width }) {
      const key = Object.keys(kinds).find((k) => kinds[k] === kind);
      const [x, y] = [map.numbers(`${key}_1`), map.numbers(`${key}_2`)];
      const labels = map.text("name").map((name) => cut(plain.get(name), Math.min(20, nameRoom(width))));
      const traces = [...clusterLook(clusters, colours)].map(([cluster, marker]) => {
        const own = clusters.flatMap((c, i) => (c === cluster ? [i] : []));
        return {
          ...DOTS,
          name: escapeText(cut(cluster || "no cluster")),
          x: own.map((i) => x[i]),
          y: own.map((i) => y[i]),
          marker: { ...marker, size: 10 },
          rows: own.map((i) => ({
            task: map.text("name")[i],
            cluster: cluster || "none",
            [`${key} 1`]: map.text(`${key}_1`)[i],
            [`${key} 2`]: map.text(`${key}_2`)[i],
          })),
        };
      });
      const { layout, room } = mapLayout(width, map.levels("cluster"), 540);
      if (names === "hidden") return { traces, layout };
      const placed = placeNames(Array.from(x), Array.from(y), labels, room);
      layout.annotations = placed.annotations;
      layout.xaxis.range = placed.x;
      layout.yaxis.range = placed.y;
      return { traces, layout };
    },
  };
};

/** The names, in their order, that a text of names joined by "; " is made of; a name may hold a semicolon itself. */
function membersOf(text, names) {
  const search = (at, first) => {
    for (let i = first; i < names.length; i++) {
      const end = at + names[i].length;
      if (!text.startsWith(names[i], at)) continue;
      if (end === text.length) return [names[i]];
      const rest = text.startsWith("; ", end) && search(end + 2, i + 1);
      if (rest) return [names[i], ...rest];
    }
    return null;
  };
  const found = search(0, 0);
  if (!found) throw new Error(`task_tree.csv has the group ${text}, and task_map.csv no such tasks`);
  return found;
}

plots.adapter_tree = async ({ task_tree: tree, task_map: map }) => {
  const { names, clusters, plain } = treeOrder(map);
  const [height, support] = [tree.numbers("height"), tree.has("support") ? tree.text("support") : null];
  // Each row joins the two groups, or tasks, that its members were in.
  const group = new Map(names.map((name, i) => [name, { y: i, height: 0 }]));
  const joins = tree.text("members").map((text, row) => {
    const members = membersOf(text, map.text("name"));
    const parts = [...new Set(members.map((m) => group.get(m)))].sort((a, b) => a.y - b.y);
    const made = { y: mean(parts.map((p) => p.y)), height: height[row] };
    members.forEach((m) => group.set(m, made));
    return { parts, made, members, row };
  });
  return {
    controls: {},
    draw(_, { colours, width }) {
      const lines = { x: [], y: [] };
      for (const { parts, made } of joins) {
        for (const part of parts) {
          lines.x.push(part.height, made.height, null);
          lines.y.push(part.y, part.y, null);
        }
        lines.x.push(made.height, made.height, null);
        lines.y.push(parts[0].y, parts.at(-1).y, null);
      }
      const looks = clusterLook(map.text("cluster"), colours);
      const lowest = Math.min(...height);
      const from = names.length > 2 ? lowest - 0.15 * (Math.max(...height) - lowest) : 0;
      const spots = {
        ...DOTS,
        name: "groups",
        showlegend: false,
        x: joins.map((j) => j.made.height),
        y: joins.map((j) => j.made.y),
        marker: { color: colours.soft, size: 7 },
        rows: joins.map(({ members, row }) => ({
          group: members.map((m) => plain.get(m)).join(", "),
          "meets at": tree.text("height")[row],
          ...(support ? { "share of resampled layers with it": support[row] } : {}),
        })),
      };
      const leaves = [...looks].map(([cluster, marker]) => {
        const own = names.filter((name) => clusters.get(name) === cluster);
        const y = own.map((name) => names.indexOf(name));
        return {
          ...DOTS,
          name: escapeText(cut(cluster || "no cluster")),
          x: own.map(() => from),
          y,
          marker: { ...marker, size: 8 },
          cliponaxis: false,
        };
      });
      const layout = {
        ...manyNames([...looks.keys()], width, 40 + 19 * names.length),
        xaxis: {
          title: "mean distance at which groups meet",
          range: [from, Math.max(...height) * 1.02],
          showgrid: true,
          nticks: Math.floor(width / 90),
        },
        yaxis: {
          tickvals: names.map((_, i) => i),
          showgrid: false,
          ticks: "",
          range: [names.length - 0.4, -0.6],
          ticktext: names.map((n) => escapeText(cut(plain.get(n), nameRoom(width)))),
          ticklabelstandoff: 6,
        },
      };
      const x = lines.x.map((v) => (v === 0 ? from : v));
      const branches = { ...LINE, x, y: lines.y, line: { color: colours.soft, width: 1.4 }, showlegend: false };
      return { traces: [branches, spots, ...leaves], layout };
    },
  };
};
