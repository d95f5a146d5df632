// Draws the figures: those in view first, the others when there is nothing else to do.

const loaded = (async () => {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
})();

let turn = Promise.resolve();

/** Draws one figure after those before it, whatever became of them. */
function draw(element) {
  if (figures.has(element.id)) return;
  const figure = new Figure(element);
  figures.set(element.id, figure);
  turn = turn.then(async () => {
    await loaded;
    await figure.begin();
    await new Promise((resume) => setTimeout(resume)); // the page answers between two figures
  });
}

const all = [...document.querySelectorAll("figure.plot")];
const watch = new IntersectionObserver(
  (seen) => seen.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "400px" },
);
all.forEach((element) => watch.observe(element));
const idle = window.requestIdleCallback ?? ((run) => setTimeout(run, 500));
window.addEventListener("load", () => loaded.then(() => idle(() => all.forEach(draw))));

const again = () => figures.forEach((figure) => figure.drawn && figure.redraw());
night.addEventListener("change", again);
window.addEventListener("beforeprint", () => {
  printing = true;
  again();
});
window.addEventListener("afterprint", () => {
  printing = false;
  setTimeout(again); // the page is as wide as the paper until then
});
let wide = 0;
const widths = new ResizeObserver(([{ contentRect }]) => {
  if (Math.abs(contentRect.width - wide) < 40) return; // ticks and squares are made for a width
  wide = contentRect.width;
  again();
});
widths.observe(document.querySelector("main"));
