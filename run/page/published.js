// Published values under ours.

const QUANTITIES = {
  cka: "same-layer CKA (biased)",
  cka_unseen: "same-layer CKA (biased), tasks E was not trained on",
  dimensions: "directions for 99 % of the variance",
  flesch_kincaid: "correlation with the Flesch-Kincaid grade",
  coleman_liau: "correlation with the Coleman-Liau index",
  data_size: "correlation with the data size",
};

plots.published_curves = async ({ published }) => {
  const rows = Array.from({ length: published.length }, (_, i) => i);
  const cell = (name, i) => published.text(name)[i];
  const named = (i) =>
    `${QUANTITIES[cell("quantity", i)] ?? cell("quantity", i)}${cell("cluster", i) ? `, ${cell("cluster", i)}` : ""}`;
  const quantities = [...new Set(rows.map(named))];
  return {
    controls: { quantity: { label: "Quantity", options: quantities } },
    draw({ quantity }, { colours }) {
      const own = rows.filter((i) => named(i) === quantity);
      const traces = [...new Set(own.map((i) => cell("of", i)))].flatMap((of) => {
        const middle = own.filter((i) => cell("of", i) === of && !["q1", "q3"].includes(cell("statistic", i)));
        const edge = (statistic, name) => {
          const found = new Map(
            own
              .filter((i) => cell("of", i) === of && cell("statistic", i) === statistic)
              .map((i) => [cell("layer", i), published.numbers(name)[i]]),
          );
          return middle.map((i) => found.get(cell("layer", i)) ?? NaN);
        };
        const x = middle.map((i) => Number(cell("layer", i)));
        const told = middle.map((i) => ({
          of,
          "published layer": cell("layer", i),
          published: cell("published", i),
          ours: filled(cell("ours", i)),
          "our layer": cell("our_layer", i),
          "our 95 %": `${filled(cell("low", i))} to ${filled(cell("high", i))}`,
          verdict: cell("verdict", i),
        }));
        const colour = colourOf(of, [of], colours);
        const quartiles = own.some((i) => cell("of", i) === of && cell("statistic", i) === "q1");
        const of_ours = (name) => middle.map((i) => published.numbers(name)[i]);
        const [low, high] = quartiles ? [edge("q1", "ours"), edge("q3", "ours")] : [of_ours("low"), of_ours("high")];
        const mode = x.length < 6 ? { mode: "markers" } : {};
        return [
          ...(quartiles ? [band(x, edge("q1", "published"), edge("q3", "published"), colours.theirs)] : []),
          curve(`${of}, published`, colours.theirs, x, of_ours("published"), told, {
            line: { dash: of.startsWith("base") ? DASHED : "solid", width: 1.6 },
            ...mode,
          }),
          band(x, low, high, colour),
          curve(`${of}, this study`, colour, x, of_ours("ours"), told, {
            line: { dash: of.startsWith("base") ? DASHED : "solid" },
            ...mode,
          }),
        ];
      });
      return {
        traces,
        layout: { height: 420, xaxis: { title: "layer of the published model" }, yaxis: { title: cut(quantity, 60) } },
      };
    },
  };
};

plots.published_projections = async ({ published }) => {
  const names = { l1: "L1", rec: "REC", h_s1: "H(S1)", h_s2: "H(S2)" };
  const there = published.levels("quantity");
  const label = (q) => names[q] ?? q;
  const marks = ["square", "diamond", "circle"];
  return {
    controls: { quantity: { label: "Quantity", options: there.map(label) } },
    draw({ quantity }, { colours }) {
      const rows = published.rows({ quantity: there.find((q) => label(q) === quantity) });
      const cell = (name, i) => filled(published.text(name)[i]);
      const pairs = [...new Set(rows.map((i) => cell("statistic", i)))];
      const y = (i) => pairs.indexOf(cell("statistic", i));
      const told = (i) => ({
        pair: cell("statistic", i),
        of: cell("of", i),
        published: cell("published", i),
        ours: cell("ours", i),
        "our 95 %": `${cell("low", i)} to ${cell("high", i)}`,
        verdict: cell("verdict", i),
      });
      const traces = published.levels("of").map((of, n) => {
        const own = rows.filter((i) => published.text("of")[i] === of);
        const marker = { symbol: marks[n % 3], size: 9, color: colours.theirs };
        return {
          ...DOTS,
          name: `published, ${of}`,
          x: own.map((i) => published.numbers("published")[i]),
          y: own.map((i) => y(i) - 0.14),
          rows: own.map(told),
          marker,
        };
      });
      const [value, low, high] = ["ours", "low", "high"].map((name) => published.numbers(name));
      const once = pairs
        .map((pair) => rows.find((i) => cell("statistic", i) === pair && Number.isFinite(value[i])))
        .filter((i) => i !== undefined);
      const lines = {
        x: once.flatMap((i) => [low[i], high[i], null]),
        y: once.flatMap((i) => [y(i) + 0.14, y(i) + 0.14, null]),
      };
      traces.push({ ...LINE, ...lines, line: { color: colours.E, width: 2 }, showlegend: false });
      traces.push({
        ...DOTS,
        name: "this study",
        x: once.map((i) => value[i]),
        y: once.map((i) => y(i) + 0.14),
        rows: once.map(told),
        marker: { color: colours.E, size: 9 },
      });
      const layout = {
        height: 130 + 34 * pairs.length,
        xaxis: { title: quantity, showgrid: true },
        yaxis: {
          tickvals: pairs.map((_, i) => i),
          ticktext: pairs.map((p) => escapeText(p)),
          range: [pairs.length - 0.5, -0.5],
          showgrid: false,
        },
      };
      return { traces, layout };
    },
  };
};
