// Tables from the CSV files in the page. Cells stay the text that the file has; numbers are made beside them.

const tables = new Map();

/** The text of a packed element, by its id. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** Whether the page holds the file. */
function hasFile(name) {
  return document.getElementById(`file-${name}`) !== null;
}

/** The table of the CSV file `name`; read once. */
function table(name) {
  if (!tables.has(name)) tables.set(name, readTable(name));
  return tables.get(name);
}

async function readTable(name) {
  const form = document.getElementById(`file-${name}`).dataset.form;
  const text = await unpack(`file-${name}`);
  const columns = form === "columns" ? text.split("\0").map((c) => c.split("\n")) : transpose(parseCsv(text));
  return new Table(name, new Map(columns.map(([head, ...cells]) => [head, cells])), form === "rows" ? text : null);
}

/** Rows of cells of a CSV text with quotes. */
function parseCsv(text) {
  const rows = [];
  let row = [];
  const cell = /("(?:[^"]|"")*"|[^,\n]*)(,|\n|$)/g;
  while (cell.lastIndex < text.length) {
    const [, raw, end] = cell.exec(text);
    row.push(raw.startsWith('"') ? raw.slice(1, -1).replaceAll('""', '"') : raw);
    if (end !== ",") rows.push(row.splice(0));
  }
  return rows;
}

function transpose(rows) {
  return rows[0].map((_, i) => rows.map((row) => row[i]));
}

/** Columns of equal length by name. */
class Table {
  constructor(name, columns, source = null) {
    this.name = name;
    this.columns = columns;
    this.source = source;
    this.length = columns.values().next().value.length;
    this.kept = new Map();
  }

  /** The cells of a column as they stand in the file. */
  text(name) {
    if (!this.columns.has(name)) throw new Error(`${this.name} has no column ${name}`);
    return this.columns.get(name);
  }

  has(name) {
    return this.columns.has(name);
  }

  /** A column as numbers; an empty cell is NaN. */
  numbers(name) {
    return this.keep(`numbers ${name}`, () => Float64Array.from(this.text(name), (c) => (c === "" ? NaN : Number(c))));
  }

  /** The distinct cells of a column, in order. */
  levels(name) {
    return this.keep(`levels ${name}`, () => [...new Set(this.text(name))]);
  }

  /** A column as places in its levels. */
  codes(name) {
    return this.keep(`codes ${name}`, () => {
      const at = new Map(this.levels(name).map((level, i) => [level, i]));
      return Int32Array.from(this.text(name), (cell) => at.get(cell));
    });
  }

  /** Numbers of the rows whose cells are those of `chosen`, as {pair: "E | C"}. */
  rows(chosen) {
    const wanted = Object.entries(chosen).map(([name, cell]) => [this.text(name), cell]);
    const found = [];
    for (let i = 0; i < this.length; i++) if (wanted.every(([cells, cell]) => cells[i] === cell)) found.push(i);
    return found;
  }

  /** A function from one cell of each of `names` to the number of the row that has them, or undefined. */
  index(names) {
    return this.keep(`index ${names}`, () => {
      const columns = names.map((name) => this.text(name));
      const at = new Map();
      for (let i = 0; i < this.length; i++) at.set(columns.map((cells) => cells[i]).join("\n"), i);
      return (...cells) => at.get(cells.join("\n"));
    });
  }

  /** The cell of each task in another column, as its cluster. */
  lookup(key, value) {
    return this.keep(`lookup ${key} ${value}`, () => {
      const [keys, values] = [this.text(key), this.text(value)];
      return new Map(keys.map((k, i) => [k, values[i]]));
    });
  }

  /** The file, byte for byte. */
  csv() {
    if (this.source !== null) return this.source;
    const [heads, cells] = [[...this.columns.keys()], [...this.columns.values()]];
    const lines = [heads.join(",")];
    for (let i = 0; i < this.length; i++) lines.push(cells.map((column) => column[i]).join(","));
    return lines.join("\n") + "\n";
  }

  keep(key, make) {
    if (!this.kept.has(key)) this.kept.set(key, make());
    return this.kept.get(key);
  }
}

// --- numbers -------------------------------------------------------------------------------------------------------

const present = (values) => Array.from(values).filter(Number.isFinite);

/** A quantile by linear interpolation, as NumPy's; NaN of nothing. */
function quantile(values, q) {
  const sorted = present(values).sort((a, b) => a - b);
  if (!sorted.length) return NaN;
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function mean(values) {
  const there = present(values);
  return there.length ? there.reduce((a, b) => a + b, 0) / there.length : NaN;
}

/** A computed number for reading; a number of a file is shown as the file has it. */
function rounded(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "missing";
}
