// Cliff curves over examples, by label, with the cliff layer and its bootstrap interval.
"use strict";

sl.view("cliffs", section => {
  const {el, number, isNumber} = sl, {said, groups, control, follow, inSplit, nameOf, styleOf, count, many, points,
    range} = sl.study;
  const curves = {correct: said.cliff.correct || [], logit: said.cliff.logit || []}, single = said.cliff.single || [];
  if (curves.correct.length + curves.logit.length === 0) return false;
  const last = (curves.correct[0] || curves.logit[0]).mean.length - 1, xs = d3.range(last + 1);
  const hidden = k => k === last ? "never hidden: the plain run" : `hidden from layer ${k} on`;

  section.append(el("p", {class: "lead"},
    "The picture is hidden from every later position, from layer k on. The cliff layer is the first from which on "
      + "that costs nothing: "
    + "in it and in every later layer the lower end of the 95 % interval of the loss stays within the limit. Wide "
    + "intervals put it late. A few pictures that all agree have intervals of no width, and may put it early: read it with their number."),
    control() || "");
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  if (curves.correct.length) add({name: "cliff_accuracy", title: "Accuracy with the picture hidden from layer k on",
    what: "accuracy", list: curves.correct, part: "score", format: points, domain: [0, 1],
    ticks: [0, 0.25, 0.5, 0.75, 1],
      read: "Share of expected answers; bands are 95 % bootstrap intervals over draws of pictures. The limit of the cliff is "
        + "one point.",
    not: "What the question’s own tokens have already copied from the image stays: this shows when the image was "
      + "read."});
  if (curves.logit.length) add({name: "cliff_target", title: "What the answer’s target loses",
    what: "change", list: curves.logit, part: "difference", format: number,
    read: "Target with the picture hidden from layer k on, less that of the plain run: mean of the paired differences "
      + "with its bootstrap interval. The dotted line is the limit, a share of the picture’s whole effect.",
    not: "A mean: single examples may need the picture longer (below)."});
  addLayers();
  if (single.length) addSingle();
  return true;

  // what: the title of the value axis
  function add({name, title, what, list, part, format, domain, ticks, read, not}) {
    const chosen = () => list.filter(one => inSplit(one.group));
    const make = () => chosen().map(one => ({name: nameOf(one.group), style: styleOf(one.group),
      note: `${many(one.n, "example")} of ${many(one.pictures, "picture")}${one.pictures === 1 ? ": no interval" : ""}`,
      ...Object.fromEntries([["values", "value"], ["low", "low"], ["high", "high"]].map(([to, from]) => [to,
        one[part].map(point => point[from] ?? NaN)]))}));
    const figure = sl.figure(grid, {name, title, read, not, table: () => {
      const all = make();
      return {head: ["hidden from", ...all.flatMap(one => [one.name, "low", "high"])], rows: xs.map(k => [k === last
        ? "never" : k, ...all.flatMap(one => [one.values[k], one.low[k], one.high[k]].map(value => format(value)))])};
    }});
    const holder = el("div", {}), key = el("div", {});
    figure.body.append(holder);
    figure.body.after(key);
    follow(holder, inner => {
      const all = make(), of = chosen(), shown = all.flatMap(one => [...one.values, ...one.low,
        ...one.high]).filter(isNumber);
      key.replaceChildren(all.length ? sl.curve.key(all) : el("p", {class: "caption"},
        "Nothing to draw for this choice."));
      if (all.length === 0) return;
      const span = (d3.max(shown) - d3.min(shown) || 1) * 0.05;
      sl.curve.curves(inner, all, {x: xs, height: 280, axis: `${what}, by first hidden layer (${last}: never)`,
        domain: domain || [d3.min(shown) - span, Math.max(0, d3.max(shown)) + span], ticks, format,
        levels: part === "difference" && of.length === 1 ? [{value: -of[0].eps}] : null, label: title, name: hidden,
        marks: of.length === 1 && of[0].layer < last ? [{x: of[0].layer, label: `cliff layer ${of[0].layer}`}] : null});
    });
  }

  // The cliff layer of every group, by both scores.
  function addLayers() {
    const scores = [["accuracy", curves.correct], ["target", curves.logit]].filter(([, list]) => list.length > 0);
    const figure = sl.figure(grid, {name: "cliff_layers", title: "Cliff layers", canvas: () => null,
      read: "Estimates (with 95 % intervals) are read off the means alone. Where the rule’s layer is later than the "
        + "estimate, more examples could move it forward."});
    figure.figure.querySelector(".tools").remove();
    const cells = list => g => {
      const one = list.find(curve => curve.group === g);
      return one ? [el("td", {class: "strong"}, one.layer === last ? `${last} (none)` : String(one.layer)), el("td", {},
        one.estimate.value === null ? sl.dash : `${one.estimate.value} (${range(one.estimate)})`)]
        : [el("td", {}, sl.dash), el("td", {}, sl.dash)];
    };
    const rows = d3.range(groups.length).filter(g => scores.some(([, list]) => list.some(one => one.group === g)));
    figure.body.append(el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Cliff layers"},
      el("table", {class: "tops cliffs"},
      el("thead", {}, el("tr", {}, ["examples", "number", ...scores.flatMap(([what]) => [`by ${what}`,
        "estimate"])].map(name => el("th", {scope: "col"}, name)))),
      el("tbody", {}, rows.map(g => el("tr", {}, el("td", {}, g === 0 ? "all" : `${groups[g].label}: ${nameOf(g)}`),
        el("td", {}, count(Math.max(...scores.map(([, list]) => (list.find(one => one.group === g) || {n: 0}).n)))),
          scores.map(([, list]) => cells(list)(g))))))));
  }

  // How the cliff layers of single examples spread.
  function addSingle() {
    const n = d3.sum(single, ([, times]) => times), at = new Map(single), most = d3.max(single, ([,
      times]) => times) / n;
    const figure = sl.figure(grid, {name: "cliff_single", title: "Cliff layers of single examples",
      read: "In what share of the examples each layer is the cliff, read off the example’s own target.",
      table: () => ({head: ["layer", "examples", "share"], rows: single.map(([layer, times]) => [layer, times,
        sl.percent(times / n)])})});
    sl.responsive(figure.body, width => {
      const margin = {left: 46, right: 14, top: 12, bottom: 38}, height = 250, bottom = height - margin.bottom;
      const svg = sl.chart.svg(figure.body, width, height, "Cliff layers of single examples"),
        x = sl.chart.layers(margin.left, width - margin.right, last + 1);
      const y = d3.scaleLinear().domain([0, most * 1.06]).range([bottom, margin.top]);
      sl.chart.valueAxis(svg, y, margin.left, width - margin.right, y.ticks(4), sl.percent);
      for (const k of xs) {
        const share = (at.get(k) || 0) / n;
        sl.chart.attributes(svg.append("rect"), {x: x(k), width: x.bandwidth(), y: y(share), height: Math.max(0,
          bottom - y(share)), style: "fill:var(--s-attention)"})
          .on("mousemove", () => sl.tip.at(d3.event, [k === last ? "the picture is needed to the end" : `layer ${k}`,
            `${many(at.get(k) || 0, "example")}, ${sl.percent(share)}`])).on("mouseleave", sl.tip.hide);
      }
      sl.chart.layerAxis(svg, x, bottom, `share of examples, by cliff layer (${last}: none)`);
    });
  }
});
