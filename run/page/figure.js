// The frame of a figure: its controls, its drawing, and what it offers to keyboard, screen reader and paper.
//
// A plot is `async (tables) => ({ controls, draw })`. `controls` are choices by name; `draw(choice, { colours, width })`
// gives traces and a layout. A trace's `rows` are what its points stand for, as objects of label and text (for a heat
// map, rows of them): they are what the pointer shows, what arrow keys read out, and what the table lists.

const plots = {};
const figures = new Map();
const CONFIG = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" };
const MOST_LISTED = 1000;
const CURVES = 440; // pixels that figures of curves are high at most; others have as many as their names need
const ON_PAPER = 0.8; // of which, on paper: two figures and what is said of them are then on one page
const coarse = window.matchMedia("(pointer: coarse)");

const escapeText = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const filled = (cell) => (["", "nan", undefined].includes(cell) ? "missing" : cell);
const hoverText = (row) =>
  Object.entries(row)
    .map(([k, v]) => `${escapeText(k)}: <b>${escapeText(filled(v))}</b>`)
    .join("<br>");
const spokenText = (row) =>
  Object.entries(row)
    .map(([k, v]) => `${k} ${filled(v)}`)
    .join(", ");

class Figure {
  constructor(element) {
    this.element = element;
    this.name = element.id;
    this.canvas = element.querySelector(".canvas");
    this.readout = element.querySelector(".readout");
    this.choice = {};
    this.place = null;
    this.drawn = false;
  }

  /** Draws for the first time; a figure that cannot be drawn says so. */
  async begin() {
    try {
      await this.start();
    } catch (error) {
      this.element.dataset.broken = "";
      this.fail(error);
    }
  }

  fail(error) {
    this.readout.textContent = `This figure could not be drawn: ${error.message}`;
    console.error(this.name, error);
  }

  /** Reads the tables, makes the controls, draws. */
  async start() {
    const names = this.element.dataset.files.split(" ");
    this.tables = Object.fromEntries(
      await Promise.all(names.filter(hasFile).map(async (name) => [name.replace(".csv", ""), await table(name)])),
    );
    this.plot = await plots[this.name](this.tables);
    for (const [name, control] of Object.entries(this.plot.controls ?? {})) this.addControl(name, control);
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("blur", () => window.Plotly.Fx.unhover(this.canvas));
    const numbers = this.element.querySelector(".numbers");
    numbers.addEventListener("toggle", () => numbers.open && this.list());
    this.offerFiles(names.filter(hasFile));
    this.element.querySelector("[data-svg]").addEventListener("click", () => this.saveSvg());
    await this.render();
    this.drawn = true;
    this.element.dataset.drawn = "";
  }

  /** A labelled select, or a slider where the choices have an order. */
  addControl(name, { label, options, value = options[0], slider = false }) {
    this.choice[name] = value;
    if (options.length < 2) return;
    const id = `${this.name}-${name}`;
    const box = document.createElement("label");
    box.htmlFor = id;
    box.append(`${label} `);
    const input = document.createElement(slider ? "input" : "select");
    input.id = id;
    if (slider) {
      Object.assign(input, { type: "range", min: 0, max: options.length - 1, step: 1, value: options.indexOf(value) });
      const shown = document.createElement("output");
      const tell = () => {
        shown.value = this.choice[name];
        input.setAttribute("aria-valuetext", this.choice[name]);
      };
      tell();
      input.addEventListener("input", () => {
        this.choice[name] = options[Number(input.value)];
        tell();
        this.redraw();
      });
      box.append(input, " ", shown);
    } else {
      for (const option of options) input.add(new Option(option, option, option === value, option === value));
      input.addEventListener("change", () => {
        this.choice[name] = input.value;
        this.redraw();
      });
      box.append(input);
    }
    this.element.querySelector(".controls").append(box);
  }

  /** Draws again; what fails is told instead of leaving another choice's picture without a word. */
  redraw() {
    this.readout.textContent = "";
    try {
      this.render();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Draws with the choices of the moment. */
  render() {
    const width = printing ? 680 : this.canvas.clientWidth;
    const { traces, layout } = this.picture(look(), width);
    this.traces = traces;
    this.place = null;
    if (printing) layout.width = Math.min(width, layout.width ?? width);
    if (printing && layout.height < CURVES) layout.height *= ON_PAPER;
    layout.autosize = layout.width === undefined;
    if (coarse.matches) layout.dragmode = false; // a finger scrolls the page
    const rest = traces.map(({ rows, ...trace }) => trace);
    const done = window.Plotly.react(this.canvas, rest, layout, CONFIG);
    this.canvas.querySelector(".plot-container").setAttribute("aria-hidden", "true");
    if (this.element.querySelector(".numbers").open) this.list();
    return done;
  }

  picture(colours, width) {
    const { traces, layout } = this.plot.draw(this.choice, { colours, width });
    for (const trace of traces) {
      if (!trace.rows) {
        trace.hoverinfo = "skip";
        continue;
      }
      const flat = !Array.isArray(trace.rows[0]);
      trace.hoverinfo = "text";
      trace.hovertext = flat ? trace.rows.map(hoverText) : trace.rows.map((line) => line.map(hoverText));
    }
    return { traces, layout: layoutOf(colours, width, layout) };
  }

  // --- keyboard ----------------------------------------------------------------------------------------------------

  /** Left and right go along a curve or a row of cells, up and down to another; Home and End to its ends. */
  onKey(event) {
    const lines = this.lines();
    if (!lines.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.place ?? { line: 0, point: -1 };
    let { line, point } = last;
    const within = (i, n) => Math.min(Math.max(i, 0), n - 1);
    if (event.key === "ArrowRight") point += 1;
    else if (event.key === "ArrowLeft") point -= 1;
    else if (event.key === "ArrowDown") line += 1;
    else if (event.key === "ArrowUp") line -= 1;
    else if (event.key === "Home") point = 0;
    else if (event.key === "End") point = Infinity;
    else if (event.key === "Escape") {
      this.place = null;
      this.readout.textContent = "";
      window.Plotly.Fx.unhover(this.canvas);
      return;
    } else return;
    event.preventDefault();
    line = within(line, lines.length);
    point = within(point, lines[line].rows.length);
    this.place = { line, point };
    const { trace, rows, row } = lines[line];
    const name = lines.length > 1 && row === undefined && this.traces[trace].name;
    this.readout.textContent = (name ? `${name}: ` : "") + spokenText(rows[point]);
    const axes = this.traces[trace];
    const at =
      row === undefined ? { curveNumber: trace, pointNumber: point } : { xval: axes.x[point], yval: axes.y[row] };
    window.Plotly.Fx.hover(this.canvas, row === undefined ? [at] : at);
  }

  /** What up and down go through: each curve that has rows, and each row of a heat map. */
  lines() {
    return this.traces.flatMap(({ rows, visible }, trace) => {
      if (!rows?.length || visible === false || visible === "legendonly") return [];
      return Array.isArray(rows[0]) ? rows.map((own, row) => ({ trace, rows: own, row })) : [{ trace, rows }];
    });
  }

  // --- numbers, files, pictures ------------------------------------------------------------------------------------

  /** What is drawn as a table. */
  list() {
    const rows = this.traces.flatMap(({ rows }) => (rows ?? []).flat());
    const heads = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    const made = document.createElement("table");
    const head = made.createTHead().insertRow();
    for (const name of heads) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    const body = made.createTBody();
    for (const row of rows.slice(0, MOST_LISTED)) {
      const line = body.insertRow();
      for (const name of heads) line.insertCell().textContent = name in row ? filled(row[name]) : "";
    }
    const box = this.element.querySelector(".listed");
    box.replaceChildren(made);
    if (rows.length > MOST_LISTED) {
      box.append(`The first ${MOST_LISTED} of ${rows.length}; all are in the CSV file.`);
    }
  }

  /** A button for each file: a browser may refuse the second of two files that one click saves. */
  offerFiles(names) {
    const first = this.element.querySelector("[data-csv]");
    for (const name of names) {
      const button = first.cloneNode();
      button.dataset.csv = name;
      button.textContent = `Data: ${name}`;
      button.addEventListener("click", () => save(name, "text/csv", this.tables[name.replace(".csv", "")].csv()));
      first.before(button, " ");
    }
    first.remove();
  }

  /** The figure as it is seen, on white. */
  async saveSvg() {
    const width = Math.max(this.canvas.clientWidth, 480);
    const { traces, layout } = this.picture(look(true), width);
    const data = traces.map(({ rows, ...trace }) => trace);
    const size = { format: "svg", width, height: layout.height };
    const url = await window.Plotly.toImage({ data, layout: { ...layout, paper_bgcolor: "#ffffff" } }, size);
    save(`${this.name}.svg`, "image/svg+xml", decodeURIComponent(url.slice(url.indexOf(",") + 1)));
  }
}

/** Gives the reader a file. */
function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
