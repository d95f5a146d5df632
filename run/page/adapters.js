// Adapters compared by their weights: distances of all pairs, the map and the tree of tasks, projections, spectra.

/** Names in the order of the tree, their clusters, and names without a beginning that all of them share. */
function treeOrder(map) {
  const order = map.numbers("order");
  const names = [...map.text("name")].map((name, i) => [name, order[i]]).sort((a, b) => a[1] - b[1]).map(([name]) => name);
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
    tickvals: index, ticktext: names.map((n) => (isNarrow(width) ? "" : escapeText(cut(plain.get(n), 18)))), showgrid: false,
    tickfont: { size: names.length > 40 ? 8 : 11 }, constrain: "domain",
  };
  const traces = [
    heat(index, index, cells.map((row) => row.map((c) => c.z)), cells.map((row) => row.map((c) => c.row)), title, width, own),
  ];
  const layout = {
    ...square(width, 720), plot_bgcolor: colours.missing,
    xaxis: { ...ticks, tickangle: -90 }, yaxis: { ...ticks, autorange: "reversed", scaleanchor: "x" },
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
        return { z, row: { first: i, second: j, [measure]: text[row], clusters: `${order.clusters.get(i) || "none"}, ${order.clusters.get(j) || "none"}` } };
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
    controls: { kind: { label: "Map", options: Object.values(kinds) }, names: { label: "Names", options: ["shown", "hidden"] } },
    draw({ kind, names }, { colours, width }) {
      const key = Object.keys(kinds).find((k) => kinds[k] === kind);
      const [x, y] = [map.numbers(`${key}_1`), map.numbers(`${key}_2`)];
      const labels = map.text("name").map((name) => cut(plain.get(name), Math.min(20, nameRoom(width))));
      const traces = [...clusterLook(clusters, colours)].map(([cluster, marker]) => {
        const own = clusters.flatMap((c, i) => (c === cluster ? [i] : []));
        return {
          ...DOTS, name: escapeText(cut(cluster || "no cluster")), x: own.map((i) => x[i]), y: own.map((i) => y[i]), marker: { ...marker, size: 10 },
          rows: own.map((i) => ({ task: map.text("name")[i], cluster: cluster || "none", [`${key} 1`]: map.text(`${key}_1`)[i], [`${key} 2`]: map.text(`${key}_2`)[i] })),
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
        ...DOTS, name: "groups", showlegend: false, x: joins.map((j) => j.made.height), y: joins.map((j) => j.made.y), marker: { color: colours.soft, size: 7 },
        rows: joins.map(({ members, row }) => ({
          group: members.map((m) => plain.get(m)).join(", "), "meets at": tree.text("height")[row],
          ...(support ? { "share of resampled layers with it": support[row] } : {}),
        })),
      };
      const leaves = [...looks].map(([cluster, marker]) => {
        const own = names.filter((name) => clusters.get(name) === cluster);
        const y = own.map((name) => names.indexOf(name));
        return { ...DOTS, name: escapeText(cut(cluster || "no cluster")), x: own.map(() => from), y, marker: { ...marker, size: 8 }, cliponaxis: false };
      });
      const layout = {
        ...manyNames([...looks.keys()], width, 40 + 19 * names.length),
        xaxis: {
          title: "mean distance at which groups meet", range: [from, Math.max(...height) * 1.02], showgrid: true, nticks: Math.floor(width / 90),
        },
        yaxis: {
          tickvals: names.map((_, i) => i), showgrid: false, ticks: "", range: [names.length - 0.4, -0.6],
          ticktext: names.map((n) => escapeText(cut(plain.get(n), nameRoom(width)))), ticklabelstandoff: 6,
        },
      };
      const x = lines.x.map((v) => (v === 0 ? from : v));
      const branches = { ...LINE, x, y: lines.y, line: { color: colours.soft, width: 1.4 }, showlegend: false };
      return { traces: [branches, spots, ...leaves], layout };
    },
  };
};

plots.adapter_layers = async ({ adapters_by_layer: pairs, task_map: map }) => {
  const clusters = map.lookup("name", "cluster");
  const [layers, modules] = [pairs.levels("layer"), pairs.levels("module")];
  const [share, ti, tj] = [pairs.numbers("share"), pairs.text("task_i"), pairs.text("task_j")];
  const alike = { "pairs of one cluster": true, "pairs of two": false };
  return {
    controls: { module: { label: "Module", options: modules } },
    draw({ module }, { colours, width }) {
      const rows = pairs.rows({ module });
      const at = new Map(layers.map((layer, i) => [layer, i]));
      const known = rows.filter((i) => clusters.get(ti[i]) && clusters.get(tj[i]));
      const groups = known.length
        ? Object.entries(alike).map(([name, same]) => [name, known.filter((i) => (clusters.get(ti[i]) === clusters.get(tj[i])) === same)])
        : [["all pairs", rows]];
      const x = layers.map(Number);
      const traces = groups.filter(([, own]) => own.length).flatMap(([name, own], n) => {
        const colour = n ? colours["base | C"] : colours["E | C"];
        const lists = layers.map(() => []);
        own.forEach((i) => lists[at.get(pairs.text("layer")[i])].push(share[i]));
        const of = (q) => lists.map((list) => quantile(list, q));
        const told = layers.map((layer, i) => ({
          layer, pairs: name, median: rounded(of(0.5)[i]), "middle half": `${rounded(of(0.25)[i])} to ${rounded(of(0.75)[i])}`, n: String(present(lists[i]).length),
        }));
        return [band(x, of(0.25), of(0.75), colour), curve(name, colour, x, of(0.5), told)];
      });
      const layout = {
        shapes: [level(1, colours, "dash")], xaxis: { title: "layer (0: the first block)", nticks: Math.floor(width / 40) },
        yaxis: { title: "distance (1: by chance)" },
      };
      return { traces, layout };
    },
  };
};

plots.adapter_layer_heatmaps = async ({ adapters_by_layer: pairs, task_map: map }) => {
  const order = treeOrder(map);
  const at = pairs.index(["module", "layer", "task_i", "task_j"]);
  const [share, text] = [pairs.numbers("share"), pairs.text("share")];
  const all = present(share);
  const layers = pairs.levels("layer");
  return {
    controls: {
      layer: { label: "Layer", options: layers, value: layers[Math.floor(layers.length / 2)], slider: true },
      module: { label: "Module", options: pairs.levels("module") },
    },
    draw({ layer, module }, page) {
      const cell = (i, j) => {
        const row = at(module, layer, i, j) ?? at(module, layer, j, i);
        const z = row === undefined ? NaN : share[row];
        return { z, row: { first: i, second: j, distance: row === undefined ? "0, itself" : text[row], layer } };
      };
      const bounds = { zmin: all.reduce((a, b) => Math.min(a, b), Infinity), zmax: all.reduce((a, b) => Math.max(a, b), -Infinity) };
      return pairHeat(order, cell, "distance (1: by chance)", page, bounds);
    },
  };
};

plots.adapter_spectra = async ({ adapter_spectra: spectra }) => {
  const modules = spectra.levels("module");
  const [value, text] = [spectra.numbers("share_of_largest"), spectra.text("share_of_largest")];
  return {
    controls: { module: { label: "Module", options: modules } },
    draw({ module }, { colours, width }) {
      const looks = clusterLook(spectra.text("cluster"), colours);
      const shown = new Set();
      const traces = spectra.levels("name").map((name) => {
        const rows = spectra.rows({ module, name });
        const cluster = spectra.text("cluster")[rows[0]];
        const first = !shown.has(cluster);
        shown.add(cluster);
        return {
          ...LINE, name: escapeText(cut(cluster || "no cluster")), legendgroup: cluster, showlegend: first, opacity: 0.8,
          x: rows.map((i) => Number(spectra.text("direction")[i])), y: rows.map((i) => value[i]), line: { color: looks.get(cluster).color, width: 1.5 },
          rows: rows.map((i) => ({ task: name, direction: spectra.text("direction")[i], "of the largest": text[i] })),
        };
      });
      const layout = {
        ...manyNames([...looks.keys()], width, 290),
        xaxis: { title: "direction", dtick: 1 }, yaxis: { title: "singular value / the largest", range: [0, 1.05] },
      };
      return { traces, layout };
    },
  };
};

plots.projections = async ({ projection, task_map: map }) => {
  const order = treeOrder(map);
  const at = projection.index(["task_i", "task_j", "projection"]);
  const choice = measureChoice("Measure", projection.levels("projection"), ["rec", "lp"]);
  const nulls = { "unrelated updates of the same spectra": "random_subspaces", "directions paired by lot": "permuted_pairs" };
  const there = Object.keys(nulls).filter((name) => projection.has(`${nulls[name]}_z`));
  const shown = ["value", "z against chance", "value by chance"].slice(0, there.length ? 3 : 1);
  return {
    controls: {
      measure: choice.control, shown: { label: "Shown", options: shown }, ...(there.length ? { null: { label: "Chance", options: there } } : {}),
    },
    draw({ measure, shown: what, null: chance }, page) {
      const prefix = nulls[chance];
      const column = { [shown[1]]: `${prefix}_z`, [shown[2]]: `${prefix}_null_mean` }[what] ?? "value";
      const numbers = projection.numbers(column);
      const cell = (i, j) => {
        const row = at(i, j, choice.name(measure));
        const read = (name) => (row === undefined ? "" : projection.text(name)[row]);
        const beside = prefix ? { "by chance": read(`${prefix}_null_mean`), z: read(`${prefix}_z`), p: read(`${prefix}_p_value`) } : {};
        return { z: row === undefined ? NaN : numbers[row], row: { space: i, update: j, [measure]: read("value"), ...beside } };
      };
      const drawn = pairHeat(order, cell, what === shown[0] ? measure : what, page);
      drawn.layout.xaxis.title = "update of";
      drawn.layout.yaxis.title = "on the space of";
      return drawn;
    },
  };
};
