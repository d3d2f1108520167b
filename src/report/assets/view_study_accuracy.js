// Accuracy of a study: all examples, and the values of every label that has few enough.
"use strict";

sl.view("accuracy", section => {
  const {el, chart} = sl, {said, count, points, wilson} = sl.study, {attributes, text, line} = chart;
  if (!said.scored) return false;
  const all = {value: "all examples", scored: said.scored, correct: said.correct, n: said.rows, failed: said.failed};
  const labels = said.labels.filter(label => label.values.some(value => value.scored > 0));

  section.append(el("p", {class: "lead"},
    "An answer counts when it is the expected one without regard to case, blanks and punctuation at both ends; "
    + "a benchmark’s own rule is a matter of sightline eval."));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  (labels.length ? labels : [{label: "", values: []}]).forEach((label, i) => addFigure(label, i));
  if (said.unlisted.length > 0) section.append(el("p", {class: "caption note"},
    `Not split by ${said.unlisted.slice(0, 12).join(", ")}${said.unlisted.length > 12 ? ", …" : ""}: more than 40 `
      + `values.`));
  return true;

  function addFigure(label, i) {
    const rows = [all, ...label.values].filter(row => row.scored > 0);
    const figure = sl.figure(grid, {name: `accuracy_${i}`, title: label.label ? `By ${label.label}` : "All examples",
      read: i === 0 ? "Points are shares of expected answers, lines their 95 % intervals (Wilson). The dotted line is "
        + "the share of all." : null,
      table: () => ({head: [label.label || "examples", "examples", "failed", "compared", "expected", "accuracy", "low",
        "high"],
        rows: rows.map(row => [row.value, row.n, row.failed, row.scored, row.correct, points(row.correct / row.scored),
          ...wilson(row.correct, row.scored).map(points)])})});
    sl.responsive(figure.body, width => {
      const left = Math.min(150, Math.max(70, width * 0.28)), margin = {left, right: 54, top: 6, bottom: 40}, row = 25;
      const height = margin.top + rows.length * row + margin.bottom, svg = chart.svg(figure.body, width, height,
        `Accuracy${label.label ? " by " + label.label : ""}`);
      const x = d3.scaleLinear().domain([0, 1]).range([margin.left, width - margin.right]),
        bottom = height - margin.bottom;
      for (const tick of x.ticks(width < 400 ? 3 : 5)) {
        line(svg, x(tick), margin.top, x(tick), bottom, "stroke:var(--rule);stroke-width:1");
        text(svg, x(tick), bottom + 16, `${Math.round(tick * 100)} %`, {"text-anchor": "middle"});
      }
      text(svg, margin.left, bottom + 33, "share of expected answers");
      line(svg, x(all.correct / all.scored), margin.top, x(all.correct / all.scored), bottom,
        "stroke:var(--ink-2);stroke-width:1;stroke-dasharray:1 4;stroke-linecap:round");
      const room = Math.floor((left - 10) / 6.2);
      rows.forEach((one, r) => {
        const y = margin.top + (r + 0.5) * row, share = one.correct / one.scored, [low, high] = wilson(one.correct,
          one.scored);
        const name = String(one.value), shown = name.length > room ? name.slice(0, room - 1) + "…" : name;
        text(svg, left - 10, y + 4, shown, {"text-anchor": "end", "font-weight": r === 0 ? 600 : 400,
          style: "fill:var(--ink)"});
        line(svg, x(low), y, x(high), y, "stroke:var(--ink);stroke-width:1.8");
        attributes(svg.append("circle"), {cx: x(share), cy: y, r: 4,
          style: `fill:var(${r === 0 ? "--ink" : "--c-image"});stroke:var(--ink);stroke-width:1`});
        text(svg, width - margin.right + 8, y + 4, points(share), {style: "fill:var(--ink)"});
        attributes(svg.append("rect"), {x: 0, y: y - row / 2, width, height: row, style: "fill:transparent"})
          .on("mousemove", () => sl.tip.at(d3.event, [name, `${count(one.correct)} of ${count(one.scored)} as expected`,
            `${points(low)} to ${points(high)}`]))
          .on("mouseleave", sl.tip.hide);
      });
    });
  }
});
