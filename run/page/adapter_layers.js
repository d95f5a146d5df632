// Adapters by layer: distances and spectra; and projections of updates on each other.

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
        ? Object.entries(alike).map(([name, same]) => [
            name,
            known.filter((i) => (clusters.get(ti[i]) === clusters.get(tj[i])) === same),
          ])
        : [["all pairs", rows]];
      const x = layers.map((layer) => Number(layer.replace("block ", "")));
      const traces = groups
        .filter(([, own]) => own.length)
        .flatMap(([name, own], n) => {
          const colour = n ? colours["base | C"] : colours["E | C"];
          const lists = layers.map(() => []);
          own.forEach((i) => lists[at.get(pairs.text("layer")[i])].push(share[i]));
          const of = (q) => lists.map((list) => quantile(list, q));
          const told = layers.map((layer, i) => ({
            layer,
            pairs: name,
            median: rounded(of(0.5)[i]),
            "middle half": `${rounded(of(0.25)[i])} to ${rounded(of(0.75)[i])}`,
            n: String(present(lists[i]).length),
          }));
          return [band(x, of(0.25), of(0.75), colour), curve(name, colour, x, of(0.5), told)];
        });
      const layout = {
        shapes: [level(1, colours, "dash")],
        xaxis: { title: "block", nticks: Math.floor(width / 40), range: [x[0] - 0.5, x[x.length - 1] + 0.5] },
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
      const bounds = {
        zmin: all.reduce((a, b) => Math.min(a, b), Infinity),
        zmax: all.reduce((a, b) => Math.max(a, b), -Infinity),
      };
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
          ...LINE,
          name: escapeText(cut(cluster || "no cluster")),
          legendgroup: cluster,
          showlegend: first,
          opacity: 0.8,
          x: rows.map((i) => Number(spectra.text("direction")[i])),
          y: rows.map((i) => value[i]),
          line: { color: looks.get(cluster).color, width: 1.5 },
          rows: rows.map((i) => ({ task: name, direction: spectra.text("direction")[i], "of the largest": text[i] })),
        };
      });
      const layout = {
        ...manyNames([...looks.keys()], width, 290),
        xaxis: { title: "direction", dtick: 1 },
        yaxis: { title: "singular value / the largest", range: [0, 1.05] },
      };
      return { traces, layout };
    },
  };
};

plots.projections = async ({ projection, task_map: map }) => {
  const order = treeOrder(map);
  const at = projection.index(["task_i", "task_j", "projection"]);
  const choice = measureChoice("Measure", projection.levels("projection"), ["rec", "lp"]);
  const nulls = {
    "unrelated updates of the same spectra": "random_subspaces",
    "directions paired by lot": "permuted_pairs",
  };
  const there = Object.keys(nulls).filter((name) => projection.has(`${nulls[name]}_z`));
  const shown = ["value", "z against chance", "value by chance"].slice(0, there.length ? 3 : 1);
  return {
    controls: {
      measure: choice.control,
      shown: { label: "Shown", options: shown },
      ...(there.length ? { null: { label: "Chance", options: there } } : {}),
    },
    draw({ measure, shown: what, null: chance }, page) {
      const prefix = nulls[chance];
      const column = { [shown[1]]: `${prefix}_z`, [shown[2]]: `${prefix}_null_mean` }[what] ?? "value";
      const numbers = projection.numbers(column);
      const cell = (i, j) => {
        const row = at(i, j, choice.name(measure));
        const read = (name) => (row === undefined ? "" : projection.text(name)[row]);
        const beside = prefix
          ? { "by chance": read(`${prefix}_null_mean`), z: read(`${prefix}_z`), p: read(`${prefix}_p_value`) }
          : {};
        return {
          z: row === undefined ? NaN : numbers[row],
          row: { space: i, update: j, [measure]: read("value"), ...beside },
        };
      };
      const drawn = pairHeat(order, cell, what === shown[0] ? measure : what, page);
      drawn.layout.xaxis.title = "update of";
      drawn.layout.yaxis.title = "on the space of";
      return drawn;
    },
  };
};
