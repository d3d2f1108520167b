// The mean map of head scores over examples, with errors, and the heads that add most.
"use strict";

sl.view("mean_heads", section => {
  const {el, number, percent, isNumber} = sl, {said, count, many, student} = sl.study, heads = said.heads;
  if (heads.mean.length === 0) return false;
  const nLayer = d3.max(heads.layer) + 1, nHead = d3.max(heads.head) + 1, index = (l, h) => l * nHead + h;
  const at = new Map(heads.mean.map((value, i) => [index(heads.layer[i], heads.head[i]), i])), of = (key, l,
    h) => heads[key][at.get(index(l, h))];
  const halfOf = i => isNumber(heads.se[i]) ? student(heads.n[i]) * heads.se[i] : NaN; // of the 95 % interval of a mean
  const half = (l, h) => halfOf(at.get(index(l, h))), known = heads.se.some(isNumber);
  const order = d3.range(heads.mean.length).sort((a, b) => (heads.mean[b] ?? -Infinity) - (heads.mean[a] ?? -Infinity));
  let chosen = [heads.layer[order[0]], heads.head[order[0]]];
  const others = [["single", "lost when only this head is cut off", number], ["attention", "its attention on the image",
    percent], ["patching", "attribution patching", number]]
    .filter(([key]) => heads[key].some(isNumber));
  const lines = (l, h) => [`layer ${l}, head ${h}`,
    `mean score ${number(of("mean", l, h))}${isNumber(half(l, h)) ? ` ± ${number(half(l, h), 2)}` : ""}`,
    `error of one example’s score: ${number(of("stderr", l, h), 2)}`, ...others.map(([key, words,
      format]) => `${words}: ${format(of(key, l, h))}`), `${many(of("n", l, h), "example")}${isNumber(half(l, h)) ? "" : ": no interval"}`];

  section.append(el("p", {class: "lead"},
    "In every example random choices of heads were cut off from the picture, or shown a stand-in for it; a regression says what each "
      + "head’s view of it adds to the answer’s target. Here is the mean over examples."));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  const figure = sl.figure(grid, {name: "mean_heads", title: "What each head’s view of the picture adds, on average",
    read: "One cell per layer and head; the area of the square is the mean score’s size. Full squares raise the "
      + "answer, hollow ones lower it. Choose a head with the pointer or the arrow keys.",
    not: "A head that adds much in few examples and one that adds little in all look alike here.",
    table: () => ({head: ["layer", "head", "examples", "mean score", "± (95 %)", "error of one example’s score", ...others.map(([,
      words]) => words)],
      rows: order.map(i => [heads.layer[i], heads.head[i], heads.n[i], number(heads.mean[i]), number(halfOf(i), 2), number(heads.stderr[i], 2), ...others.map(([key, , format]) => format(heads[key][i]))])})});
  const holder = el("div", {}), words = el("p", {class: "detail", id: "mean-head"});
  figure.body.append(holder);
  const tell = () => { words.textContent = lines(...chosen).join("; ") + "."; };
  const map = sl.squares.map(holder, {columns: nLayer, rows: nHead, value: (l, h) => of("mean", l, h) ?? NaN,
    rowName: "head", label: "Map of mean head scores.",
    weak: (l, h) => Math.abs(of("mean", l, h)) < half(l, h), selected: () => chosen, lines, choose: (l,
      h) => { chosen = [l, h]; map.move(); tell(); }});
  figure.body.append(sl.squares.legend(map.largest(), {plus: "raises the answer", minus: "lowers it",
    weak: known ? "pale: 0 is within the interval" : null}), words);
  tell();

  const top = sl.figure(grid, {name: "top_heads", title: "The heads that add most",
    read: known ? "Means with their 95 % intervals over examples (Student’s t)." : "One example: there are no intervals."});
  const shown = order.slice(0, 16);
  sl.responsive(top.body, width => {
    const {attributes, text, line} = sl.chart, margin = {left: 92, right: 58, top: 4, bottom: 40}, row = 22,
      height = margin.top + shown.length * row + margin.bottom;
    const svg = sl.chart.svg(top.body, width, height, "The heads that add most"), bottom = height - margin.bottom,
      error = i => halfOf(i) || 0;
    const x = d3.scaleLinear().domain([Math.min(0, d3.min(shown, i => heads.mean[i] - error(i))), Math.max(0,
      d3.max(shown, i => heads.mean[i] + error(i)))]).range([margin.left, width - margin.right]);
    for (const tick of x.ticks(4)) {
      line(svg, x(tick), margin.top, x(tick), bottom, "stroke:var(--rule);stroke-width:1");
      text(svg, x(tick), bottom + 16, number(tick), {"text-anchor": "middle"});
    }
    text(svg, margin.left, bottom + 33, "mean score, in units of the target");
    shown.forEach((i, r) => {
      const y = margin.top + (r + 0.5) * row;
      text(svg, margin.left - 9, y + 4, `layer ${heads.layer[i]} · ${heads.head[i]}`, {"text-anchor": "end",
        style: "fill:var(--ink)"});
      line(svg, x(heads.mean[i] - error(i)), y, x(heads.mean[i] + error(i)), y, "stroke:var(--ink);stroke-width:1.8");
      attributes(svg.append("circle"), {cx: x(heads.mean[i]), cy: y, r: 4,
        style: "fill:var(--plus);stroke:var(--ink);stroke-width:1"});
      text(svg, width - margin.right + 8, y + 4, number(heads.mean[i]), {style: "fill:var(--ink)"});
      attributes(svg.append("rect"), {x: 0, y: y - row / 2, width, height: row,
        style: "fill:transparent;cursor:pointer"})
        .on("mousemove", () => sl.tip.at(d3.event, lines(heads.layer[i], heads.head[i]))).on("mouseleave", sl.tip.hide)
        .on("click", () => { chosen = [heads.layer[i], heads.head[i]]; map.move(); tell(); });
    });
  });
  return true;
});
