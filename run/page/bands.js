// Curves over layers: the bands they are cut into, and those of several studies beside each other.

plots.bands_by_layer = async ({ cka_by_layer: curves, bands }) => {
  const layers = curves.levels("layer");
  const x = layers.map((_, i) => i);
  const places = new Map(layers.map((name, i) => [name, i]));
  return {
    controls: {
      cuts: { label: "Bands of", options: bands.levels("curves") },
      statistic: { label: "Curves", options: ["mean", "median"] },
    },
    draw({ cuts, statistic }, { colours, width }) {
      const pairs = cuts.split(" and ");
      const traces = [];
      for (const pair of pairs) {
        const rows = curves.rows({ pair });
        const of = (name) => rows.map((i) => curves.numbers(name)[i]);
        const text = (name) => rows.map((i) => curves.text(name)[i]);
        const [value, low, high, tasks] = [
          text(statistic),
          text(`${statistic}_low`),
          text(`${statistic}_high`),
          text("tasks"),
        ];
        const told = rows.map((_, i) => ({
          layer: layers[i],
          pair,
          [statistic]: value[i],
          "95 %": `${filled(low[i])} to ${filled(high[i])}`,
          tasks: tasks[i],
        }));
        traces.push(band(x, of(`${statistic}_low`), of(`${statistic}_high`), colours[pair] ?? colours.text));
        traces.push(curve(pair, colours[pair] ?? colours.text, x, of(statistic), told));
      }
      const [shapes, annotations] = [[], []];
      const own = bands.rows({ curves: cuts });
      const cell = (name, i) => bands.text(name)[i];
      own.forEach((i, n) => {
        const [from, to] = [places.get(cell("first", i)), places.get(cell("last", i))];
        const column = { type: "rect", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 } };
        if (n % 2 === 0) shapes.push({ ...column, x0: from - 0.5, x1: to + 0.5, fillcolor: faint(colours.soft, 0.1) });
        annotations.push({
          x: (from + to) / 2,
          y: 0.02,
          yref: "paper",
          showarrow: false,
          font: { size: 12, color: colours.soft },
          text: `${shortLayer(cell("first", i))} to ${shortLayer(cell("last", i))}`,
        });
        if (n === 0) return;
        const [low, high] = [cell("begins_low", i), cell("begins_high", i)];
        shapes.push({
          type: "line",
          yref: "paper",
          y0: 0,
          y1: 1,
          x0: from - 0.5,
          x1: from - 0.5,
          line: { color: colours.text, width: 1.3, dash: "dash" },
        });
        if (!low) return;
        const [x0, x1] = [places.get(low) - 0.5, places.get(high) - 0.5];
        shapes.push({
          type: "line",
          yref: "paper",
          y0: 0.09,
          y1: 0.09,
          x0,
          x1,
          line: { color: colours.text, width: 5 },
        });
      });
      const layout = {
        height: 400,
        shapes,
        annotations,
        xaxis: { title: "layer", range: [-0.7, layers.length - 0.3], ...layerTicks(layers, width) },
        yaxis: {
          title: `same-layer CKA, ${statistic} over tasks`,
          range: ckaRange(curves.numbers(`${statistic}_low`)),
        },
      };
      return { traces, layout };
    },
  };
};

plots.cka_by_depth = async ({ cka_by_depth: curves }) => {
  const studies = curves.levels("study");
  return {
    controls: { pair: { label: "Models", options: curves.levels("pair"), value: "E | C" } },
    draw({ pair }, { colours }) {
      const dashes = ["solid", DASHED, "dot", "dashdot"];
      const traces = studies.map((study, n) => {
        const rows = curves.rows({ study, pair });
        const of = (name) => rows.map((i) => curves.numbers(name)[i]);
        const told = rows.map((i) => ({ study, depth: curves.text("depth")[i], CKA: curves.text("cka")[i] }));
        const line = { line: { dash: dashes[n % dashes.length] } };
        return curve(
          escapeText(cut(study)),
          colours.clusters[n % colours.clusters.length],
          of("depth"),
          of("cka"),
          told,
          line,
        );
      });
      const layout = {
        xaxis: { title: "share of the depth" },
        yaxis: { title: "same-layer CKA, mean over tasks", range: ckaRange(curves.numbers("cka")) },
      };
      return { traces, layout };
    },
  };
};
