// Maps of signed numbers (Hinton diagrams): area says how much, full or hollow says which sign, so that no colour is needed.
"use strict";

sl.squares = (() => {
  const {attributes, text} = sl.chart;

  // One square centred at (x, y) in a cell `room` px wide; its area is |value| / largest of the cell's.
  function square(parent, x, y, room, value, largest, weak) {
    if (!sl.isNumber(value) || value === 0 || largest <= 0) return;
    const side = Math.max(1.4, Math.sqrt(Math.min(1, Math.abs(value) / largest)) * room), edge = value < 0 ? 1.5 : 0;
    if (value < 0 && side <= 3.5) { // too small to be hollow: a minus
      attributes(parent.append("rect"), {x: x - 2.5, y: y - 0.6, width: 5, height: 1.2, opacity: weak ? 0.6 : 1,
        style: "fill:var(--minus);pointer-events:none"});
      return;
    }
    attributes(parent.append("rect"), {x: x - side / 2 + edge / 2, y: y - side / 2 + edge / 2, width: Math.max(1, side - edge),
      height: Math.max(1, side - edge),
      opacity: weak ? 0.6 : 1, style: value > 0 ? "fill:var(--plus)"
        : `fill:${edge ? "none" : "var(--minus)"};stroke:var(--minus);stroke-width:${edge}` + ";pointer-events:none"});
  }

  // What the squares mean, drawn with the same function.
  function legend(largest, {plus, minus, weak}) {
    const entry = (value, faint, words) => {
      const holder = sl.el("span", {class: "sample", "aria-hidden": "true"});
      square(attributes(d3.select(holder).append("svg"), {width: 14, height: 14}), 7, 7, 13, value, 1, faint);
      return sl.el("span", {class: "entry"}, holder, words);
    };
    return sl.el("div", {class: "legend squares"}, entry(1, false, `${plus}; this size: ${sl.number(largest)}`), entry(-1, false, minus),
      weak ? entry(1, true, weak) : null);
  }

  // A map of columns (layers, or whatever options.axis says) by rows. options: columns, rows, value (c, r), lines (c, r) for the
  // tooltip, weak (c, r), rowName, axis, label, selected () => [c, r], choose (c, r), keys (state keys to follow), marks.
  function map(holder, options) {
    let move = () => {};
    const {columns, rows, value} = options, cells = d3.range(columns * rows), of = i => value(Math.floor(i / rows), i % rows);
    const largest = () => Math.max(1e-30, d3.max(cells, i => Math.abs(of(i)) || 0));
    const draw = sl.responsive(holder, width => {
      const margin = {left: 46, right: 6, top: 20, bottom: 38}, x = sl.chart.layers(margin.left, width - margin.right,
        columns).paddingInner(0.04);
      const cell = Math.max(8, Math.min(30, x.step())), height = margin.top + rows * cell + margin.bottom, most = largest();
      const svg = sl.chart.svg(holder, width, height, ""), yOf = r => margin.top + r * cell, room = Math.min(x.bandwidth(), cell) - 1;
      attributes(svg, {tabindex: 0, role: "application", "aria-roledescription": "map"});
      attributes(svg.append("rect"), {x: margin.left, y: margin.top, width: width - margin.right - margin.left, height: rows * cell,
        style: "fill:var(--plate)"});
      for (let c = 0; c < columns; c++) {
        for (let r = 0; r < rows; r++) {
          const weak = options.weak ? options.weak(c, r) : false;
          attributes(svg.append("rect"), {"data-cell": `${c},${r}`, x: x(c) - 0.5, y: yOf(r), width: x.step(), height: cell,
            style: "fill:transparent;cursor:pointer"})
            .on("mousemove", () => sl.tip.at(d3.event, options.lines(c, r))).on("mouseleave", sl.tip.hide).on("click",
              () => options.choose(c, r));
          square(svg, x(c) + x.bandwidth() / 2, yOf(r) + cell / 2, room, value(c, r), most, weak);
        }
      }
      const every = Math.max(1, Math.ceil(14 / cell));
      for (let r = 0; r < rows; r += every) text(svg, margin.left - 7, yOf(r) + cell / 2 + 4, options.rowNames ? options.rowNames[r] : r,
        {"text-anchor": "end"});
      text(svg, margin.left - 7, margin.top - 7, options.rowName, {"text-anchor": "end"});
      for (const [at, label] of options.marks || []) sl.chart.marker(svg, x, margin.top - 7, margin.top + rows * cell, at, label);
      sl.chart.layerAxis(svg, x, margin.top + rows * cell, options.axis);
      const frame = attributes(svg.append("rect"), {"data-cursor": "", rx: 2,
        style: "fill:none;stroke:var(--focus);stroke-width:2.5;pointer-events:none"});
      move = () => {
        const [c, r] = options.selected();
        svg.attr("aria-label", `${options.label} ${options.lines(c, r).join(", ")}. Arrow keys move.`);
        if (c < columns && r < rows) attributes(frame, {x: x(c) - 2, y: yOf(r) - 1, width: x.bandwidth() + 4, height: cell + 2});
      };
      move();
      svg.on("blur", sl.tip.hide).on("keydown", () => {
        const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[d3.event.key];
        if (!step) return;
        d3.event.preventDefault();
        const [c, r] = options.selected(), to = [Math.min(columns - 1, Math.max(0, c + step[0])), Math.min(rows - 1,
          Math.max(0, r + step[1]))];
        options.choose(to[0], to[1]);
        sl.tip.on(svg.node(), options.lines(to[0], to[1]), x(to[0]) + x.bandwidth(), yOf(to[1]) + cell);
        sl.say(options.lines(to[0], to[1]).join(", "));
      });
    });
    if (options.keys) sl.on(options.keys, () => move());
    return {draw, largest, move: () => move()};
  }

  return {square, legend, map};
})();
