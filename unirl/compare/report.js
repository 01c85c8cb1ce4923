// Read-out under the pointer: the values of every visible curve at the x of the pointer.
const short = (v) => (v === 0 ? "0" : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(3)));

function at(xs, ys, x) {
  if (x < xs[0] || x > xs[xs.length - 1]) return null;
  const i = xs.findIndex((value) => value >= x);
  if (i <= 0) return ys[0];
  const part = (x - xs[i - 1]) / (xs[i] - xs[i - 1] || 1);
  return ys[i - 1] + part * (ys[i] - ys[i - 1]);
}

function line(text, style) {
  const row = document.createElement("div");
  if (style !== undefined) {
    const dot = document.createElement("span");
    dot.className = `dot s${style % 10}`;
    row.append(dot);
  }
  row.append(text);
  return row;
}

for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.dataset.hover);
  const [cursor, tip] = [plot.querySelector(".cursor"), plot.querySelector(".tip")];
  const hide = () => { cursor.hidden = tip.hidden = true; };
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share < 0 || share > 1) return hide();
    const x = share * data.right;
    const found = data.series
      .filter((s) => document.getElementById(`show-${s.style}`).checked)
      .map((s) => ({ ...s, now: at(s.x, s.y, x), from: s.low.length ? at(s.x, s.low, x) : null, to: s.low.length ? at(s.x, s.high, x) : null }))
      .filter((s) => s.now !== null)
      .sort((a, b) => b.now - a.now);
    const range = (s) => (s.from === null ? "" : ` [${short(s.from)}, ${short(s.to)}]`);
    tip.replaceChildren(line(`${short(x)} ${plot.dataset.unit}`), ...found.map((s) => line(`${s.name}  ${short(s.now)}${range(s)}`, s.style)));
    cursor.hidden = tip.hidden = false;
    cursor.style.left = `${100 * share}%`;
    tip.style.left = share < 0.5 ? `calc(${100 * share}% + 10px)` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `calc(${100 * (1 - share)}% + 10px)`;
  });
}
