// Knockout: what happens when one set of positions cannot look at another for a few layers.
"use strict";

sl.view("knockout", section => {
  const {el, facts, tensor, chart, percent, fixed} = sl, said = (sl.run.analyses || {}).knockout || {};
  const change = tensor("knockout.change"), edges = Array.isArray(said.edges) ? said.edges : [];
  if (!change || edges.length !== change.shape[0]) return false;
  const nLayer = change.shape[1], negligible = 0.01; // a loss under 1 % has no place to speak of
  const signed = value => !sl.isNumber(value) ? sl.dash : Math.abs(value) < 0.00005 ? "0" : (value > 0 ? "+" : "−")
    + percent(Math.abs(value));
  const rows = edges.map((edge, e) => {
    const values = change.at(e), lowest = d3.min(values), peak = d3.scan(Array.from(values), (a, b) => a - b);
    const loses = sl.isNumber(lowest) && lowest <= -negligible;
    return {edge, values, lowest, peak, highest: d3.max(values), centre: loses && sl.isNumber(edge.centroid) ? edge.centroid : null,
      title: sl.edgeName(edge)};
  });

  section.append(el("p", {class: "lead"},
    `“Question ← image” is cut in ${said.window ?? "a few"} neighbouring layers at a time: there, the question’s positions cannot `
      + `read the image, `
    + `and everything else stays. How much of ${facts.measured("probability", false)} is lost says along which way, and when, information travels.`));
  const low = Math.min(-0.1, d3.min(change.values)), high = Math.max(0.05, d3.max(change.values));
  const figure = sl.figure(section, {name: "knockout", title: `Change of ${facts.measured("probability", false)} when a way is cut`, wide: true,
    read: "One row per way, all on one scale. Down is loss: −100 % means that nothing is left of it. The triangle "
      + "marks the centre of the losses; "
      + "it is left out where the loss stays under 1 %.",
    not: "What several ways carry together can survive the loss of each of them. A cut is wider than one layer, so peaks are blurred "
      + "by as much.",
    table: () => ({head: ["layer in the middle", ...rows.map(row => row.title)], rows: d3.range(nLayer).map(il => [il,
      ...rows.map(row => signed(row.values[il]))])})});
  let move = () => {};
  sl.responsive(figure.body, width => {
    const narrow = width < 760, label = narrow ? 0 : 236, margin = {left: label + 46, right: 14, top: 8, bottom: 38}, pitch = narrow ? 112
      : 84, plot = 56;
    const height = margin.top + rows.length * pitch + margin.bottom, svg = chart.svg(figure.body, width, height,
      `Change of ${facts.measured("probability", false)} by way cut and layer`);
    const x = chart.layers(margin.left, width - margin.right, nLayer), centre = il => x(il) + x.bandwidth() / 2;
    rows.forEach((row, e) => {
      const top = margin.top + e * pitch + (narrow ? 40 : 8), y = d3.scaleLinear().domain([low, high]).range([top + plot, top]);
      chart.line(svg, margin.left, y(0), width - margin.right, y(0), "stroke:var(--ink-3);stroke-width:1");
      chart.line(svg, margin.left, y(low), width - margin.right, y(low), "stroke:var(--rule);stroke-width:1");
      chart.text(svg, margin.left - 7, y(0) + 4, "0", {"text-anchor": "end"});
      chart.text(svg, margin.left - 7, y(low) + 4, signed(low), {"text-anchor": "end"});
      chart.text(svg, narrow ? margin.left : 0, narrow ? top - 22 : top + 12, row.title, {"font-size": 12.5, "font-weight": 600,
        style: "fill:var(--ink)"});
      const most = row.lowest <= -negligible ? `loses ${percent(-row.lowest)} at layer ${row.peak}` : "loses less than 1 %";
      chart.text(svg, narrow ? width - margin.right : 0, narrow ? top - 22 : top + 30, narrow ? "" : most);
      const shape = d3.area().x((value, il) => centre(il)).y0(y(0)).y1(value => y(value)),
        line = d3.line().x((value, il) => centre(il)).y(value => y(value));
      chart.attributes(svg.append("path"), {d: shape(Array.from(row.values)) || "", style: "fill:var(--s-attention);fill-opacity:0.14"});
      chart.attributes(svg.append("path"), {d: line(Array.from(row.values)) || "",
        style: "fill:none;stroke:var(--s-attention);stroke-width:1.8"});
      row.values.forEach((value, il) => chart.attributes(svg.append("circle"), {cx: centre(il), cy: y(value), r: nLayer > 24 ? 1.8 : 2.6,
        style: "fill:var(--s-attention)"}));
      if (row.centre !== null) {
        const at = centre(0) + row.centre * x.step();
        chart.attributes(svg.append("path"), {d: `M${at - 5} ${y(0) - 10}h10l-5 8z`, style: "fill:var(--ink)",
          "data-centre": fixed(row.centre, 2)});
        chart.text(svg, at + (at > width - 70 ? -8 : 8), y(0) - 3, fixed(row.centre, 1), {"text-anchor": at > width - 70 ? "end" : "start",
          "font-weight": 600,
          style: "fill:var(--ink);paint-order:stroke;stroke:var(--surface);stroke-width:3px"});
      }
    });
    chart.layerAxis(svg, x, height - margin.bottom, "layer in the middle of the cut");
    chart.columns(svg, x, margin.top, height - margin.bottom, il => [`cut around layer ${il}`,
      ...rows.map(row => `${row.title}: ${signed(row.values[il])}`)]);
    move = facts.nLayer > 0 ? chart.cursor(svg, x, margin.top, height - margin.bottom) : () => {};
  });
  sl.on("layer", () => move());

  const order = rows.filter(row => row.centre !== null).sort((a, b) => a.centre - b.centre);
  section.append(el("p", {}, order.length === 0
    ? `No single way costs 1 % of ${facts.measured("probability", false)} or more: what it needs reaches it on several.`
    : order.length === 1 ? `Only one way costs 1 % of ${facts.measured("probability", false)} or more: ${order[0].title}, around layer ${fixed(order[0].centre, 1)}.`
      : `In order of where their losses lie: ${order.map(row => `${row.title} (layer ${fixed(row.centre, 1)}, up to ${signed(row.lowest)})`).join("; ")}.`
        + (order.length < rows.length ? " The others cost less than 1 %." : "")));
  const left = Array.isArray(said.left_out) ? said.left_out : [];
  if (left.length) section.append(el("p", {class: "caption"}, "Left out: ", left.map(one => `${one.edge} (${one.reason})`).join("; "),
    "."));
  return true;
});
