// Convergence: the same four measures of attention and of CAM, layer by layer, and how well the two agree.
"use strict";

sl.view("converge", section => {
  const {el, facts, tensor, chart} = sl, flow = tensor("flow.stats"), cam = tensor("cam.stats"), rho = tensor("cam.flow_correlation");
  if (!flow && !cam) return false;
  const {nLayer} = facts, column = (stats, k) => d3.range(nLayer).map(il => stats.at(il, k));
  const nToken = (tensor("flow.image") || tensor("cam.heat") || {shape: [0, 0, 1]}).shape.slice(2).reduce((a, b) => a * b, 1);
  const n = facts.nPatch ?? sl.maps.shown(nToken).length; // the measures leave a kept class token out
  const undefinedAt = cam ? il => !facts.isDefined(il) : null;
  const series = k => [flow ? {name: "attention", values: column(flow, k), colour: "--s-attention", shape: "circle"} : null,
    cam ? {name: "CAM", values: column(cam, k).map((value, il) => facts.isDefined(il) ? value : NaN), colour: "--s-cam", dash: "5 3", shape: "square", hollow: true, hatched: true} : null].filter(one => one);
  const any = list => list.some(one => one.values.some(sl.isNumber));
  section.append(el("p", {class: "lead"}, "If a layer has found something, its map is narrow and lies on it. Attention of the position that predicts the first answer token, and the first CAM map, measured the same way."),
    el("p", {class: "key lines"}, flow ? el("span", {}, el("i", {class: "line attention"}), "attention, filled circles") : null, cam ? el("span", {}, el("i", {class: "line cam"}), "CAM, dashed with open squares") : null,
      undefinedAt && d3.range(nLayer).some(undefinedAt) ? el("span", {}, el("i", {class: "line hatch"}), "CAM undefined") : null));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  const add = (name, title, list, options, words) => {
    if (!any(list)) return;
    const figure = sl.figure(grid, {name, title, read: words[0], not: words[1],
      table: () => ({head: ["layer", ...list.map(one => one.name)], rows: d3.range(nLayer).map(il => [il, ...list.map(one => (options.format || sl.number)(one.values[il]))])})});
    chart.lines(figure.body, list, {height: 230, label: title + " over layers", hatch: undefinedAt, ...options});
  };
  const mass = tensor("cam.mass");
  if (mass) {
    const most = d3.max(d3.range(nLayer).filter(il => facts.isDefined(il)), il => mass.values[il]);
    const shares = d3.range(nLayer).map(il => facts.isDefined(il) && most > 0 && mass.values[il] > 0 ? mass.values[il] / most : NaN);
    const least = Math.pow(10, Math.floor(Math.log10(Math.max(1e-6, Math.min(0.01, d3.min(shares) || 0.01)))));
    add("cam_mass", "How strong is the CAM?", [{name: "CAM", values: shares, colour: "--s-cam", dash: "5 3", shape: "square", hollow: true, hatched: true}],
      {scale: "log", domain: [least, 1], ticks: d3.range(Math.round(Math.log10(least)), 1).map(p => Math.pow(10, p)), format: sl.percent, tickFormat: sl.percentTick, baseline: {value: facts.cliffMass, label: `limit of the cliff, ${sl.percent(facts.cliffMass)}`}},
      ["Sum of the map as a share of the strongest layer’s, on a logarithmic scale. The CAM cliff is the first layer from which it stays under the limit.", "Where a map is weak, its shape in the figures below says little."]);
  }
  add("entropy", "Entropy over image tokens", series(0), {domain: [0, Math.log(n) * 1.04], baseline: {value: Math.log(n), label: `evenly spread, ${sl.number(Math.log(n))} = ln ${n}`}},
    ["In nats. Lower is narrower; e to this power is roughly the number of tokens that share the weight.", "Narrow is not right: a single meaningless token can hold all the weight."]);
  add("top10", "Weight on the top 10 % of image tokens", series(1), {domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], format: sl.percent, baseline: {value: 0.1, label: "evenly spread, 10 %"}},
    ["100 % would mean that a tenth of the tokens holds everything.", null]);
  add("object_share", "Weight on the marked object", series(2), {domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], format: sl.percent, baseline: {value: facts.objectShare, label: `evenly spread, ${sl.percent(facts.objectShare)} of the tokens`}},
    ["Tokens count as object when at least half of their area is marked.", "The background may be evidence too."]);
  add("pointing", "Does the peak lie on the object?", pointing(series(3)), {domain: [-0.35, 1.35], ticks: [0, 1], format: value => value === 0 || value > 0.9 || value < 0.1 ? (value > 0.5 ? "yes" : "no") : sl.dash},
    ["The token with the largest value: on the object, or not.", null]);
  add("agreement", "Do attention and CAM agree?", rho ? [{name: "rank correlation", values: Array.from(rho.values, (value, il) => facts.isDefined(il) ? value : NaN), colour: "--s-attention", shape: "circle", hatched: true}] : [],
    {domain: [-1, 1], ticks: [-1, -0.5, 0, 0.5, 1], format: value => sl.fixed(value, 2), baseline: {value: 0, label: "no relation"}},
    ["Spearman’s ρ between the two maps of a layer: 1 the same order of tokens, 0 unrelated, −1 reversed.", "Agreement does not make either map right, and disagreement does not say which is wrong."]);

  // Two series of yes and no would hide each other: shift them apart a little, points only.
  function pointing(list) {
    return list.map((one, i) => ({...one, pointsOnly: true, values: one.values.map(value => sl.isNumber(value) ? value + (list.length > 1 ? (i ? -0.07 : 0.07) : 0) : NaN)}));
  }
  return true;
});
