// How states spread, maps of prompts, clusters, readability, and which layers a task needs.

const WORDS = {
  dimensions: "dimensions for 99 % of the variance",
  participation_ratio: "participation ratio",
  effective_rank: "effective rank",
  matrix_entropy: "matrix entropy",
  curvature: "curvature from token to token (radians)",
  largest_share: "share of the largest direction",
  variance: "variance",
  silhouette: "silhouette",
  silhouette_across: "silhouette among other tasks",
  knn_purity: "purity of neighbours",
  knn_purity_across: "purity of neighbours from other tasks",
  nmi: "k-means and clusters (NMI)",
  grassmann_columns: "Grassmann distance, columns",
  grassmann_rows: "Grassmann distance, rows",
  grassmann_columns_share: "Grassmann distance, columns, share of chance",
  grassmann_rows_share: "Grassmann distance, rows, share of chance",
  rec: "REC",
  lp: "Lp",
  lp_normalised: "Lp, normalised",
  l2: "L2",
  l2_equal_norm: "L2, equal norms",
  lp_equal_norm: "Lp, equal norms",
  interference_equal_norm: "interference, equal norms",
  entropy_s1: "H(S1)",
  entropy_s2: "H(S2)",
  capture_block: "captured by the block",
  capture_columns: "captured by the columns",
  capture_rows: "captured by the rows",
  capture_diagonal: "captured by the diagonal",
  overlap_columns: "overlap of columns",
  overlap_rows: "overlap of rows",
  flesch_kincaid: "Flesch-Kincaid grade",
  coleman_liau: "Coleman-Liau index",
  words: "words",
  train_examples: "training examples",
};
const inWords = (name) => WORDS[name] ?? name.replaceAll("_", " ");

/** A choice among the cells of a column, in words; `first` those that come first. */
function measureChoice(label, names, first = []) {
  const order = [...first.filter((name) => names.includes(name)), ...names.filter((name) => !first.includes(name))];
  const back = new Map(order.map((name) => [inWords(name), name]));
  return { control: { label, options: [...back.keys()] }, name: (words) => back.get(words) };
}

plots.spectrum = async ({ spectrum }) => {
  const at = spectrum.index(["task", "model", "measure", "layer"]);
  const [value, text] = [spectrum.numbers("spectrum"), spectrum.text("spectrum")];
  const [layers, models] = [spectrum.levels("layer"), spectrum.levels("model")];
  const measure = measureChoice("Measure", spectrum.levels("measure"), [
    "dimensions",
    "participation_ratio",
    "effective_rank",
    "curvature",
  ]);
  const over = "median over tasks";
  const x = layers.map((_, i) => i);
  return {
    controls: { measure: measure.control, task: { label: "Task", options: [over, ...spectrum.levels("task")] } },
    draw({ measure: words, task }, { colours, width }) {
      const tasks = task === over ? spectrum.levels("task") : [task];
      const traces = models.flatMap((model) => {
        const colour = colourOf(model, models, colours);
        const places = layers.map((layer) => tasks.map((t) => at(t, model, measure.name(words), layer)));
        const lists = places.map((rows) => rows.map((i) => value[i]));
        const of = (q) => lists.map((list) => quantile(list, q));
        const rows = layers.map((layer, i) =>
          task === over
            ? {
                layer,
                model,
                median: rounded(of(0.5)[i]),
                "middle half": `${rounded(of(0.25)[i])} to ${rounded(of(0.75)[i])}`,
                tasks: String(present(lists[i]).length),
              }
            : { layer, model, task, [words]: text[places[i][0]] },
        );
        const line = curve(model, colour, x, of(0.5), rows);
        return task === over ? [band(x, of(0.25), of(0.75), colour), line] : [line];
      });
      const layout = {
        xaxis: { title: "layer", ...layerTicks(layers, width) },
        yaxis: { title: words, rangemode: "tozero" },
      };
      return { traces, layout };
    },
  };
};

plots.task_maps = async ({ embedding_map: map }) => {
  const value = map.numbers("map");
  const [models, layers] = [map.levels("model"), map.levels("layer")];
  const projections = { tsne: "t-SNE", pca: "PCA" };
  const there = Object.keys(projections).filter((p) => map.levels("projection").includes(p));
  // Points of one map are the rows of axis x; the y of a point is found by the labels.
  const at = map.index(["model", "projection", "layer", "point", "axis"]);
  const points = map.rows({ model: models[0], projection: there[0], layer: layers[0], axis: "x" });
  const [names, tasks, clusters] = ["point", "task", "cluster"].map((c) => points.map((i) => map.text(c)[i]));
  const spots = (model, projection, layer) =>
    names.map((p) => ["x", "y"].map((axis) => value[at(model, projection, layer, p, axis)]));
  const drawnLayers = layers.filter((layer) => spots(models[0], there[0], layer).some(([v]) => Number.isFinite(v)));
  const middle = drawnLayers[Math.floor(drawnLayers.length / 2)];
  return {
    controls: {
      layer: { label: "Layer", options: drawnLayers, value: middle, slider: true },
      model: { label: "Model", options: models },
      projection: { label: "Map", options: there.map((p) => projections[p]) },
      colour: { label: "Coloured by", options: ["cluster", "task"] },
    },
    draw({ layer, model, projection, colour }, { colours, width }) {
      const found = spots(
        model,
        there.find((p) => projections[p] === projection),
        layer,
      );
      const groups = colour === "cluster" ? clusters : tasks;
      const traces = [...clusterLook(groups, colours)].map(([group, marker]) => {
        const own = groups.flatMap((g, i) => (g === group && Number.isFinite(found[i][0]) ? [i] : []));
        return {
          ...DOTS,
          name: escapeText(cut(group || "no cluster")),
          x: own.map((i) => found[i][0]),
          y: own.map((i) => found[i][1]),
          rows: own.map((i) => ({ task: tasks[i], cluster: clusters[i] || "none", prompt: names[i], layer })),
          marker: { ...marker, size: 6, opacity: 0.85 },
        };
      });
      return { traces, layout: mapLayout(width, [...new Set(groups)], 520).layout };
    },
  };
};

plots.clusters = async ({ embedding_scores: scores }) => {
  const at = scores.index(["model", "measure", "layer", "statistic"]);
  const [value, text] = [scores.numbers("score"), scores.text("score")];
  const [layers, models] = [scores.levels("layer"), scores.levels("model")];
  const measure = measureChoice("Score", scores.levels("measure"), ["knn_purity_across", "silhouette", "nmi"]);
  const x = layers.map((_, i) => i);
  return {
    controls: { measure: measure.control },
    draw({ measure: words }, { colours, width }) {
      const traces = models.flatMap((model) => {
        const colour = colourOf(model, models, colours);
        const row = (statistic) => layers.map((layer) => at(model, measure.name(words), layer, statistic));
        const [own, chance, sd, p] = ["value", "null_mean", "null_sd", "p_value"].map(row);
        const [mid, dev] = [chance.map((i) => value[i]), sd.map((i) => value[i])];
        const told = layers.map((layer, i) => ({
          layer,
          model,
          [words]: text[own[i]],
          "by chance": text[chance[i]],
          p: text[p[i]],
        }));
        const least = measure.name(words) === "silhouette" ? -1 : 0; // a share or a purity is not below 0
        const dashed = { mode: "lines", line: { dash: DASHED, width: 1.2 }, showlegend: false };
        return [
          band(
            x,
            mid.map((m, i) => Math.max(least, m - 2 * dev[i])),
            mid.map((m, i) => m + 2 * dev[i]),
            colour,
          ),
          { ...curve(`${model}, by chance`, colour, x, mid, undefined, dashed) },
          curve(
            model,
            colour,
            x,
            own.map((i) => value[i]),
            told,
          ),
        ];
      });
      const layout = {
        shapes: [level(0, colours)],
        yaxis: { title: words },
        xaxis: { title: "layer", ...layerTicks(layers, width) },
      };
      return { traces, layout };
    },
  };
};

plots.readability = async ({ readability_correlation: found }) => {
  const [layers, pairs] = [found.levels("layer"), found.levels("pair")];
  const measure = measureChoice("Correlated with CKA", found.levels("measure"));
  const at = found.index(["pair", "measure", "layer"]);
  const x = layers.map((_, i) => i);
  return {
    controls: { measure: measure.control },
    draw({ measure: words }, { colours, width }) {
      const traces = pairs.flatMap((pair) => {
        const colour = colourOf(pair, pairs, colours);
        const rows = layers.map((layer) => at(pair, measure.name(words), layer));
        const of = (name) => rows.map((i) => found.numbers(name)[i]);
        const cell = (name, i) => filled(found.text(name)[rows[i]]);
        const told = layers.map((layer, i) => ({
          layer,
          pair,
          r: cell("r", i),
          "95 %": `${cell("low", i)} to ${cell("high", i)}`,
          tasks: cell("n", i),
          ...(found.has("p_familywise") ? { "p over all layers": cell("p_familywise", i) } : {}),
        }));
        return [band(x, of("low"), of("high"), colour), curve(pair, colour, x, of("r"), told)];
      });
      const layout = {
        shapes: [level(0, colours)],
        yaxis: { title: "correlation over tasks", range: [-1, 1] },
        xaxis: { title: "layer", ...layerTicks(layers, width) },
      };
      return { traces, layout };
    },
  };
};

plots.ablation = async ({ ablation }) => {
  const kinds = ablation.levels("kind").filter((kind) => !["base", "full"].includes(kind));
  const names = {
    band: "bands of blocks",
    prefix: "the first blocks",
    suffix: "the last blocks",
    single: "single blocks",
  };
  const kind = new Map(kinds.map((k) => [names[k] ?? k, k]));
  const models = ablation.levels("model");
  return {
    controls: {
      kind: { label: "Adapter in", options: [...kind.keys()] },
      model: { label: "Model", options: models, value: models.includes("C") ? "C" : models[0] },
      cluster: clusterChoice(ablation),
    },
    draw({ kind: words, model, cluster }, { colours }) {
      const tasks = new Set(tasksOf(ablation, cluster));
      const rows = ablation.rows({ kind: kind.get(words), model }).filter((i) => tasks.has(ablation.text("task")[i]));
      const masks = [...new Set(rows.map((i) => ablation.text("mask")[i]))];
      const share = ablation.numbers("share");
      const cell = (name, i) => filled(ablation.text(name)[i]);
      const lists = masks.map((mask) => rows.filter((i) => ablation.text("mask")[i] === mask));
      const blocks = masks.map((mask) => mask.replace(/^\w+ /, ""));
      const x = masks.map((_, i) => i);
      const traces = boxes(
        "over tasks",
        colours.E,
        x,
        lists.map((own) => own.map((i) => share[i])),
        0.5,
        (i) => ({ blocks: blocks[i] }),
      );
      const dots = lists.flatMap((own, m) =>
        own.filter((i) => Number.isFinite(share[i])).map((i, n) => ({ i, x: m + ((n % 7) - 3) * 0.03 })),
      );
      traces.push({
        ...DOTS,
        name: "tasks",
        x: dots.map((d) => d.x),
        y: dots.map((d) => share[d.i]),
        marker: { color: colours.text, size: 5, opacity: 0.5 },
        rows: dots.map(({ i }) => ({
          task: cell("task", i),
          "blocks with the adapter": cell("mask", i).replace(/^\w+ /, ""),
          "share kept": cell("share", i),
          "95 %": `${cell("share_low", i)} to ${cell("share_high", i)}`,
          loss: cell("loss", i),
        })),
      });
      const step = Math.max(1, Math.ceil(masks.length / 16));
      const ticks = x.filter((i) => i % step === 0);
      const layout = {
        height: 400,
        shapes: [level(0, colours), level(1, colours, "dash")],
        xaxis: { title: "blocks with the adapter", tickvals: ticks, ticktext: ticks.map((i) => blocks[i]) },
        yaxis: { title: "share of the gain kept" },
      };
      return { traces, layout };
    },
  };
};
