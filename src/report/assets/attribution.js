// What head and token attribution have in common: the curves of their rankings, and how well the regression predicts.
"use strict";

// prefix: what the tensors' names begin with, "heads." or "tokens.image_".
sl.attributionId = prefix => prefix.replace(/[._]$/, "").replace(".", "_");

// Faithfulness and completeness. options: unit [one, many], kept (what being kept means), curves (of run.json), skipped (why there are
// none), names of the rankings.
sl.attributionCurves = (parent, prefix, {unit, kept, curves, skipped, names}) => {
  const [single, many] = unit, {el, tensor, percent, fixed} = sl, steps = tensor(prefix + "steps"), of = name => tensor(prefix + name);
  const rankings = curves && Array.isArray(curves.rankings) ? curves.rankings : [], enough = curves && sl.isNumber(curves.enough)
    ? curves.enough : 0.9;
  if (skipped) parent.append(el("p", {class: "notice"}, `No curves: ${skipped}.`));
  if (!steps || rankings.length === 0) return;
  const add = (name, key, title, words) => {
    const own = of(name), rivals = of(name + "_rivals");
    if (!own) return;
    const series = rankings.slice(0, 1 + (rivals ? rivals.shape[0] : 0)).map((one, r) => {
      const smallest = one["smallest_" + key], area = one["area_" + key], spread = (one.area_sd || {})[key];
      return {name: names[one.name] ?? String(one.name), style: sl.curve.styles[rankings.length === 2 && r ? 4 : r % 6], values: r
        ? rivals.at(r - 1) : own.values, smallest, area, spread,
        note: (Number.isInteger(smallest) ? `${smallest} for ${percent(enough)}` : `never ${percent(enough)}`)
          + (one.orders > 1 ? `, mean of ${one.orders} orders` : "")};
    });
    const figure = sl.figure(parent, {name: `${sl.attributionId(prefix)}_${name}`, title, read: words[0], not: words[1],
      table: () => ({head: [many, ...series.map(one => one.name)],
        rows: [...Array.from(steps.values, (n, i) => [n, ...series.map(one => fixed(one.values[i], 3))]),
        ["area under the curve", ...series.map(one => fixed(one.area, 3) + (sl.isNumber(one.spread) ? ` ± ${fixed(one.spread, 3)}` : ""))]]})});
    const areas = series.filter(one => sl.isNumber(one.area)).map(one => `${one.name} ${fixed(one.area, 2)}`
      + (sl.isNumber(one.spread) ? ` ± ${fixed(one.spread, 2)}` : ""));
    const holder = el("div", {}), all = series.flatMap(one => Array.from(one.values)).filter(sl.isNumber);
    figure.body.append(holder, sl.curve.key(series), areas.length ? el("p", {class: "caption areas"}, `Area under the curve: ${areas.join(", ")}.`
      + (series.some(one => sl.isNumber(one.spread)) ? " ±: standard deviation over the random orders." : "")) : "");
    sl.curve.curves(holder, series, {x: Array.from(steps.values), axis: `${many}, best first (square-root axis)`, height: 290, root: true,
      unit: many, format: value => percentSigned(value),
      domain: [Math.min(0, Math.max(-0.5, d3.min(all))), Math.max(1, Math.min(1.5, d3.max(all)))], ticks: [0, 0.25, 0.5, 0.75, 1],
        levels: [{value: enough}],
      marks: Number.isInteger(series[0].smallest)
        ? [{x: series[0].smallest, label: `${series[0].smallest} ${series[0].smallest === 1 ? single : many}`}] : null,
      label: `${title}, over the number of ${many}`});
  };
  const percentSigned = value => value < 0 ? "−" + percent(-value) : percent(value);
  add("faithfulness", "faithful", `Enough: only the first n ${many} ${kept}`,
    [`How much of the picture’s whole effect comes back when only the first n ${many} of a ranking are kept. The sooner a curve rises, `
      + `the better its ranking. Dotted: ${percent(enough)}.`,
      "Above 100 % means that what was left out was holding the answer back."]);
  add("completeness", "complete", `Needed: all but the first n ${many}`,
    [`How much of the effect is lost when the first n ${many} are taken away. A ranking that leaves out what stands in for its first `
      + `${many} rises late here.`, null]);
};

// Scatter of held-out masks and, with `grown`, how the fit grew. prefix as above; masks: what a mask is made of.
sl.attributionFit = (parent, prefix, {regression, target, masks, grown}) => {
  const {el, tensor, fixed, number} = sl, of = name => tensor(prefix + name);
  const truth = of("target"), predicted = of("predicted"), fit = regression.fit || {}, growth = of("growth");
  if (!truth || !predicted) return;
  const pairs = Array.from(predicted.values, (value, i) => [value, truth.values[10 * i + 9]]).filter(pair => pair.every(sl.isNumber));
  const figure = sl.figure(parent, {name: `${sl.attributionId(prefix)}_scatter`, title: "Is the regression to be believed?",
    read: `One point per test mask, which the fit has never seen: what the scores say the ${target} should be, and what it was. On the `
      + `dashed line the two are equal.`,
    not: "A good fit says that effects add up. It does not say that nothing but this carries the picture.",
    table: () => ({head: ["test mask", "predicted", "true"], rows: pairs.map(([p, t], i) => [i + 1, number(p), number(t)])})});
  const holder = el("div", {});
  const range = Array.isArray(fit.pearson_interval) && fit.pearson_interval.every(sl.isNumber)
    ? ` (95 % interval ${fit.pearson_interval.map(end => fixed(end, 3)).join(" to ")})` : "";
  for (const doubt of [regression.interrupted, regression.note]) {
    if (doubt) figure.body.append(el("p", {class: "notice"}, `${String(doubt)[0].toUpperCase()}${String(doubt).slice(1)}.`));
  }
  figure.body.append(el("p", {class: "strong"},
    `Pearson ${fixed(fit.pearson, 3)}${range} · Spearman ${fixed(fit.spearman, 3)} · R² ${fixed(fit.r2, 3)} on ${pairs.length} test masks`),
    holder);
  sl.curve.scatter(holder, pairs, {axis: `predicted ${target}`, vertical: `true ${target}`,
    label: `Predicted and true ${target} of the test masks`});
  if (!grown || !growth || growth.shape[0] < 2) return;
  const column = k => d3.range(growth.shape[0]).map(i => growth.at(i, k));
  const small = sl.figure(parent, {name: `${sl.attributionId(prefix)}_growth`, title: "Were there enough masks?",
    read: "Fit on the validation masks as masks were added. Flat at the end: more would change little."
      + (regression.stopped ? ` Drawing ended because: ${regression.stopped}.` : ""),
    table: () => ({head: ["masks", "Pearson", "Spearman", "R²"], rows: d3.range(growth.shape[0]).map(i => [growth.at(i, 0),
      ...[1, 2, 3].map(k => fixed(growth.at(i, k), 3))])})});
  const series = ["Pearson", "Spearman", "R²"].map((name, i) => ({name, values: column(i + 1), style: sl.curve.styles[i]}));
  const all = series.flatMap(one => one.values).filter(sl.isNumber), body = el("div", {});
  small.body.append(body, sl.curve.key(series));
  sl.curve.curves(body, series, {x: column(0), axis: `masks of ${masks}`, unit: "masks", height: 220,
    domain: [Math.max(-0.2, Math.min(0, d3.min(all))), 1], format: value => fixed(value, 2),
    label: "Fit over the number of masks"});
};
