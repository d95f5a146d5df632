// Losses before and after, and the course of training.

plots.losses = async ({ losses }) => {
  const clusters = losses.levels("cluster");
  const of = losses.lookup("task", "cluster");
  const tasks = [...losses.levels("task")].sort((s, t) => clusters.indexOf(of.get(s)) - clusters.indexOf(of.get(t)));
  const [before, after] = [losses.numbers("before"), losses.numbers("after")];
  const orders = ["by cluster", "by loss of the base", "by what C gains"];
  const first = losses.index(["task", "model"]);
  return {
    controls: { order: { label: "Order", options: orders } },
    draw({ order }, { colours, width }) {
      const key = (task) =>
        order === orders[1]
          ? -before[first(task, "C") ?? first(task, "E")]
          : after[first(task, "C")] - before[first(task, "C")];
      const sorted = order === orders[0] ? tasks : [...tasks].sort((s, t) => (key(s) || 0) - (key(t) || 0));
      const traces = ["E", "C"].flatMap((model, side) => {
        const rows = sorted.flatMap((task, y) => {
          const i = first(task, model);
          return i === undefined ? [] : [{ i, y: y + (side ? 0.16 : -0.16) }];
        });
        const cell = (name, i) => losses.text(name)[i];
        const told = rows.map(({ i }) => ({
          task: cell("task", i),
          cluster: cell("cluster", i),
          model,
          before: cell("before", i),
          after: cell("after", i),
          tokens: cell("tokens", i),
        }));
        const colour = colours[model];
        const lines = {
          ...LINE,
          x: rows.flatMap(({ i }) => [before[i], after[i], null]),
          y: rows.flatMap(({ y }) => [y, y, null]),
        };
        const spots = { ...DOTS, y: rows.map(({ y }) => y) };
        const open = { color: colours.paper, size: 7, line: { color: colour, width: 1.5 } };
        return [
          { ...lines, line: { color: colour, width: 2 }, showlegend: false },
          { ...spots, x: rows.map(({ i }) => before[i]), marker: open, showlegend: false },
          {
            ...spots,
            name: `after tuning: ${model}`,
            x: rows.map(({ i }) => after[i]),
            rows: told,
            marker: { color: colour, size: 8 },
          },
        ];
      });
      const open = { color: colours.paper, size: 7, line: { color: colours.soft, width: 1.5 } };
      traces.push({ ...DOTS, name: "before: base model", x: [null], y: [null], marker: open });
      const layout = {
        height: 110 + 26 * sorted.length,
        xaxis: { title: "held-out loss (nats)", rangemode: "tozero", showgrid: true },
        yaxis: {
          tickvals: sorted.map((_, i) => i),
          ticktext: sorted.map((t) => escapeText(cut(t, nameRoom(width)))),
          range: [sorted.length - 0.4, -0.6],
          showgrid: false,
        },
      };
      return { traces, layout };
    },
  };
};

plots.training = async ({ training }) => {
  const models = training.levels("model");
  const kinds = { loss: "training loss (nats)", grad_norm: "gradient norm" };
  const there = Object.keys(kinds).filter((name) => training.has(name) && present(training.numbers(name)).length);
  const step = training.numbers("step");
  const all = "all";
  return {
    controls: {
      kind: { label: "Shown", options: there.map((name) => kinds[name]) },
      model: { label: "Model", options: [all, ...models] },
    },
    draw({ kind, model: chosen }, { colours }) {
      const name = there.find((k) => kinds[k] === kind);
      const value = training.numbers(name);
      const own = (model) => {
        const rows = training.rows({ model });
        return {
          x: rows.map((i) => step[i]),
          y: rows.map((i) => value[i]),
          rows: rows.map((i) => ({ model, step: training.text("step")[i], [kind]: training.text(name)[i] })),
        };
      };
      const controls = models.filter((m) => m !== "E" && (chosen === all || chosen === m));
      const one = controls.length === 1;
      const traces = controls.map((m, i) => {
        const line = { color: one ? colours.C : faint(colours.C, 0.45), width: one ? 2.2 : 1 };
        return {
          ...LINE,
          name: one ? escapeText(cut(m)) : "C of each task",
          legendgroup: "C",
          showlegend: i === 0,
          ...own(m),
          line,
        };
      });
      if (models.includes("E") && (chosen === all || chosen === "E")) {
        traces.push({ ...LINE, name: "E", ...own("E"), line: { color: colours.E, width: 2.2 } });
      }
      if (chosen === all && controls.length > 2) {
        const byStep = new Map();
        controls.forEach((m) => {
          const { x, y } = own(m);
          x.forEach((s, i) => byStep.set(s, [...(byStep.get(s) ?? []), y[i]]));
        });
        const steps = [...byStep.keys()].sort((s, t) => s - t);
        const middle = steps.map((s) => quantile(byStep.get(s), 0.5));
        traces.push({
          ...LINE,
          name: "C: median",
          x: steps,
          y: middle,
          line: { color: colours.C, width: 2.6 },
          rows: steps.map((s, i) => ({ step: String(s), "median of C": rounded(middle[i]) })),
        });
      }
      return { traces, layout: { xaxis: { title: "step" }, yaxis: { title: kind, rangemode: "tozero" } } };
    },
  };
};
