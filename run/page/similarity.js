// CKA by layer, between all layers, by task, and by estimator.

/** Rows of same-layer CKA: a function from pair, estimator, task and layer to the number of a row. */
function sameLayer(cka) {
  return cka.keep("same layer", () => {
    const [a, b] = [cka.text("layer_a"), cka.text("layer_b")];
    const keys = ["pair", "estimator", "task"].map((name) => cka.text(name));
    const at = new Map();
    for (let i = 0; i < cka.length; i++) if (a[i] === b[i]) at.set([...keys.map((k) => k[i]), a[i]].join("\n"), i);
    return (...cells) => at.get(cells.join("\n"));
  });
}

/** The tasks of a cluster, or all. */
function tasksOf(source, cluster) {
  const clusters = source.lookup("task", "cluster");
  return source.levels("task").filter((task) => cluster === ALL_CLUSTERS || clusters.get(task) === cluster);
}

const clusterChoice = (source) => ({ label: "Tasks of", options: [ALL_CLUSTERS, ...source.levels("cluster")] });
const estimatorChoice = { label: "Estimator", options: ["debiased", "biased"] };
const OWN_PAIRS = ["base | C", "E | C"];

/** From 0 to 1, or lower where a debiased value is negative. */
function ckaRange(values) {
  const low = Math.min(0, ...present(values));
  return [low < 0 ? low - 0.03 : 0, 1.03];
}

plots.cka_by_layer = async ({ cka }) => {
  const [at, value, text] = [sameLayer(cka), cka.numbers("cka"), cka.text("cka")];
  const layers = cka.levels("layer_a");
  return {
    controls: { estimator: estimatorChoice, cluster: clusterChoice(cka) },
    draw({ estimator, cluster }, { colours, width }) {
      const tasks = tasksOf(cka, cluster);
      const few = tasks.length <= 15;
      const traces = [];
      const columns = layers.map(() => []);
      OWN_PAIRS.forEach((pair, side) => {
        const places = layers.map((layer) => tasks.map((task) => at(pair, estimator, task, layer)));
        const lists = places.map((rows) => rows.map((i) => value[i]));
        lists.forEach((list, i) => columns[i].push(...list));
        const x = layers.map((_, i) => i + (side ? 0.2 : -0.2));
        traces.push(...boxes(pair, colours[pair], x, lists, 0.34, (i) => ({ layer: layers[i], pair })));
        const dots = layers.flatMap((layer, l) => {
          const [q1, q3] = [quantile(lists[l], 0.25), quantile(lists[l], 0.75)];
          const reach = 1.5 * (q3 - q1);
          return tasks.flatMap((task, t) => {
            const v = lists[l][t];
            if (!Number.isFinite(v) || !(few || v < q1 - reach || v > q3 + reach)) return [];
            return [{ x: x[l], y: v, row: { task, layer, pair, CKA: text[places[l][t]] } }];
          });
        });
        traces.push({
          ...DOTS,
          name: `${pair}: ${few ? "tasks" : "far tasks"}`,
          legendgroup: pair,
          showlegend: false,
          x: dots.map((d) => d.x),
          y: dots.map((d) => d.y),
          rows: dots.map((d) => d.row),
          marker: { color: few ? colours.text : colours[pair], size: 4.5, opacity: few ? 0.45 : 0.8 },
        });
      });
      const layout = {
        height: 420,
        boxmode: "overlay",
        shapes: [...missingColumns(columns, colours), level(0, colours)],
        xaxis: { title: "layer", range: [-0.7, layers.length - 0.3], ...layerTicks(layers, width) },
        yaxis: { title: `same-layer CKA (${estimator})`, range: ckaRange(columns.flat()) },
      };
      return { traces, layout };
    },
  };
};

plots.cka_all_layers = async ({ cka }) => {
  const [value, text] = [cka.numbers("cka"), cka.text("cka")];
  const [a, b] = [cka.codes("layer_a"), cka.codes("layer_b")];
  const [rows, columns] = [cka.levels("layer_a"), cka.levels("layer_b")];
  const both = "E | C less base | C";

  /** Sum, count and last row of each cell. */
  function cells(chosen) {
    const made = rows.map(() => columns.map(() => ({ sum: 0, count: 0, row: undefined })));
    for (const i of cka.rows(chosen)) {
      const cell = made[a[i]][b[i]];
      cell.row = i;
      if (Number.isFinite(value[i])) {
        cell.sum += value[i];
        cell.count += 1;
      }
    }
    return made;
  }

  const average = (cell) => (cell.count ? cell.sum / cell.count : NaN);
  return {
    controls: {
      pair: { label: "Models", options: [...cka.levels("pair"), both], value: "E | C" },
      task: { label: "Task", options: [ALL_TASKS, ...cka.levels("task")] },
      estimator: estimatorChoice,
    },
    draw({ pair, task, estimator }, { colours, width }) {
      const one = task !== ALL_TASKS;
      const own = { estimator, ...(one ? { task } : {}) };
      const difference = pair === both;
      const [first, second] = difference ? ["first model", "C"] : pair.split(" | ");
      const found = cells({ ...own, pair: difference ? "E | C" : pair });
      const less = difference ? cells({ ...own, pair: "base | C" }) : null;
      const z = found.map((line, i) => line.map((cell, j) => average(cell) - (less ? average(less[i][j]) : 0)));
      const told = found.map((line, i) =>
        line.map((cell, j) => {
          const number = one && !less ? text[cell.row] : rounded(z[i][j]);
          const over = one ? { task } : { "mean over": counted(cell.count, "task") };
          return {
            [`layer of ${first}`]: rows[i],
            [`layer of ${second}`]: columns[j],
            [less ? "difference" : "CKA"]: number,
            ...over,
          };
        }),
      );
      const most = Math.max(1e-3, ...present(z.flat()).map(Math.abs));
      const scale = less
        ? { zmin: -most, zmax: most, colorscale: differences(colours) }
        : { zmin: Math.min(0, ...present(z.flat())), zmax: 1 };
      const size = square(width);
      const side = size.width * 0.7;
      const index = (names) => names.map((_, i) => i);
      const traces = [heat(index(columns), index(rows), z, told, less ? "difference of CKA" : "CKA", width, scale)];
      const layout = {
        ...size,
        plot_bgcolor: colours.missing,
        xaxis: { title: `layer of ${second}`, constrain: "domain", ...layerTicks(columns, side) },
        yaxis: {
          title: `layer of ${first}`,
          scaleanchor: "x",
          constrain: "domain",
          showgrid: false,
          ...layerTicks(rows, side),
        },
      };
      return { traces, layout };
    },
  };
};

plots.cka_by_task = async ({ cka }) => {
  const [at, value, text] = [sameLayer(cka), cka.numbers("cka"), cka.text("cka")];
  const layers = cka.levels("layer_a");
  const clusters = cka.lookup("task", "cluster");
  const order = cka.levels("cluster");
  const tasks = [...cka.levels("task")].sort((s, t) => order.indexOf(clusters.get(s)) - order.indexOf(clusters.get(t)));
  const both = "E | C less base | C";
  return {
    controls: { shown: { label: "Shown", options: [both, ...OWN_PAIRS] }, estimator: estimatorChoice },
    draw({ shown, estimator }, { colours, width }) {
      const read = (pair, task, layer) => at(pair, estimator, task, layer);
      const rows = tasks.map((task) =>
        layers.map((layer) => ({
          task,
          cluster: clusters.get(task),
          layer,
          "E | C": text[read("E | C", task, layer)],
          "base | C": text[read("base | C", task, layer)],
        })),
      );
      const z = tasks.map((task) =>
        layers.map((layer) => {
          const [e, c] = [value[read("E | C", task, layer)], value[read("base | C", task, layer)]];
          return shown === both ? e - c : shown === "E | C" ? e : c;
        }),
      );
      const most = Math.max(1e-3, ...present(z.flat()).map(Math.abs));
      const scale =
        shown === both
          ? { zmin: -most, zmax: most, colorscale: differences(colours) }
          : { zmin: Math.min(0, ...present(z.flat())), zmax: 1 };
      const index = (list) => list.map((_, i) => i);
      const traces = [
        heat(index(layers), index(tasks), z, rows, shown === both ? "difference of CKA" : "CKA", width, scale),
      ];
      const lines = tasks.flatMap((task, i) => {
        if (!i || clusters.get(task) === clusters.get(tasks[i - 1])) return [];
        return [
          {
            type: "line",
            xref: "paper",
            x0: 0,
            x1: 1,
            y0: i - 0.5,
            y1: i - 0.5,
            line: { color: colours.soft, width: 0.7 },
          },
        ];
      });
      const layout = {
        height: 130 + 17 * tasks.length,
        plot_bgcolor: colours.missing,
        shapes: lines,
        xaxis: { title: "layer", ...layerTicks(layers, width * 0.6) },
        yaxis: {
          tickvals: index(tasks),
          ticktext: tasks.map((t) => escapeText(cut(t, nameRoom(width)))),
          autorange: "reversed",
          showgrid: false,
          tickfont: { size: 11 },
        },
      };
      return { traces, layout };
    },
  };
};

plots.cka_estimators = async ({ cka }) => {
  const [at, value] = [sameLayer(cka), cka.numbers("cka")];
  const chance = cka.has("null_mean") ? cka.numbers("null_mean") : null;
  const [layers, tasks] = [cka.levels("layer_a"), cka.levels("task")];
  const x = layers.map((_, i) => i);
  return {
    controls: { pair: { label: "Models", options: cka.levels("pair") } },
    draw({ pair }, { colours, width }) {
      const colour = colours[pair] ?? colours.text;
      const over = (estimator, numbers, layer) =>
        tasks.map((task) => numbers[at(pair, estimator, task, layer)]).filter(Number.isFinite);
      const along = (estimator, numbers) => layers.map((layer) => mean(over(estimator, numbers, layer)));
      const rows = (what, y, estimator = what, numbers = value) =>
        layers.map((layer, i) => ({
          layer,
          [what]: rounded(y[i]),
          "mean over": counted(over(estimator, numbers, layer).length, "task"),
        }));
      const [debiased, biased] = [along("debiased", value), along("biased", value)];
      const traces = [
        band(x, debiased, biased, colour),
        curve("debiased", colour, x, debiased, rows("debiased", debiased)),
        curve("biased", colour, x, biased, rows("biased", biased), { line: { dash: DASHED, width: 1.5 } }),
      ];
      if (chance) {
        const by = along("biased", chance);
        const grey = { line: { dash: "dot", width: 1.5 } };
        traces.push(
          curve(
            "biased, of unrelated states",
            colours.soft,
            x,
            by,
            rows("biased by chance", by, "biased", chance),
            grey,
          ),
        );
      }
      const layout = {
        shapes: [level(0, colours)],
        xaxis: { title: "layer", ...layerTicks(layers, width) },
        yaxis: { title: "same-layer CKA, mean over tasks", range: ckaRange(debiased) },
      };
      return { traces, layout };
    },
  };
};
