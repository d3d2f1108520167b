// Studies: what all their sections share (groups of examples, curves of groups), and the head of their page.
"use strict";

// Numbers of run.study; task/study_report.c makes them. Group 0 is all examples; the others are values of labels.
sl.study = (() => {
  const said = sl.run.study, {el, isNumber} = sl, groups = said.groups;
  const labels = [...new Set(groups.slice(1).map(group => group.label))];
  sl.state.split = -1; // index of the label that curves are split by; -1 = not split
  const inSplit = g => sl.state.split < 0 ? g === 0 : groups[g].label === labels[sl.state.split];
  const nameOf = g => g === 0 ? "all examples" : groups[g].value;
  const styleOf = g => sl.curve.styles[g === 0 ? 0 : groups.filter((group, i) => i > 0 && i < g
    && group.label === groups[g].label).length
    % sl.curve.styles.length];
  const z = 1.96; // of 95 % intervals

  const count = n => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const many = (n, word) => `${count(n)} ${n === 1 ? word : word + "s"}`;

  // Wilson's interval of a share.
  function wilson(k, n) {
    if (!n) return [NaN, NaN];
    const p = k / n, centre = (p + z * z / (2 * n)) / (1 + z * z / n);
    const half = z / (1 + z * z / n) * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    return [k <= 0 ? 0 : Math.max(0, centre - half), k >= n ? 1 : Math.min(1, centre + half)];
  }

  // Student's t of a 95 % interval of the mean of n values; beyond the first five Cornish and Fisher's series (right to
  // one part in a thousand). NaN of one value.
  function student(n) {
    const f = n - 1, few = [NaN, 12.706, 4.303, 3.182, 2.776, 2.571];
    if (f < few.length) return few[f] ?? NaN;
    return z + (z ** 3 + z) / (4 * f) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * f ** 2)
      + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * f ** 3);
  }

  // 95 % interval of a mean: Wilson's where every example is a yes or a no, else Student's, cut at what the number can be.
  // One example has none.
  const limitsOf = name => name.endsWith(".entropy") ? [0, Infinity] : name.endsWith(".flow_correlation") ? [-1, 1] : [0, 1];
  function interval(name, mean, se, n) {
    if (!isNumber(mean) || !isNumber(se) || n < 2) return [NaN, NaN];
    if (name.endsWith(".pointing")) return wilson(mean * n, n);
    const half = student(n) * se, [least, most] = limitsOf(name);
    return [Math.max(least, mean - half), Math.min(most, mean + half)];
  }

  // How many examples a curve is of: layers may differ.
  function noteOf(numbers) {
    const some = numbers.filter(n => n > 0), few = d3.min(some), most = d3.max(some);
    const words = few === most ? many(most, "example") : `${count(few)} to ${many(most, "example")}`;
    if (few > 1) return words;
    return most === 1 ? `${words}: no interval` : `${words}, no interval where it is one`;
  }

  // A mean curve with its intervals.
  function curveOf(name, one) {
    const ends = one.mean.map((mean, i) => interval(name, mean, one.se[i], one.n[i]));
    return {values: one.mean.map(value => value ?? NaN), low: ends.map(([low]) => low), high: ends.map(([, high]) => high),
      note: noteOf(one.n)};
  }

  // Mean curves of the chosen groups, with intervals. more: of the group's number, for other names and styles.
  function series(name, more = () => ({})) {
    return (said.curves[name] || []).filter(one => inSplit(one.group)).map(one => ({name: nameOf(one.group),
      style: styleOf(one.group), ...curveOf(name, one), ...more(one.group)}));
  }

  // One control in every section that splits; all of them show the same choice.
  function control() {
    if (labels.length === 0) return null;
    const choices = [{value: -1, label: "all examples"}, ...labels.map((label, i) => ({value: i,
      label: `by ${label}`}))];
    const name = `split-${control.count = (control.count || 0) + 1}`;
    const radios = sl.radios("Curves of", name, choices, -1, value => sl.set({split: value}));
    sl.on("split", () => sl.choose(radios, sl.state.split));
    return el("div", {class: "controls"}, radios);
  }

  // Draws into holder now and whenever the split changes; make() = null takes what was drawn away.
  function follow(holder, draw) {
    const again = () => {
      const inner = el("div", {});
      holder.replaceChildren(inner);
      draw(inner);
    };
    again();
    sl.on("split", again);
  }

  // What is not all is never 100 %, and what is something never 0.
  const points = value => !isNumber(value) ? sl.dash : (value > 0.9995 && value < 1 ? "99.9" : value > 0 && value < 0.0005 ? "< 0.1"
    : String(Number((value * 100).toFixed(1)) || 0).replace("-", "−")) + "\u202f%";
  const range = one => one && isNumber(one.low) && isNumber(one.high) ? `${one.low} to ${one.high}` : "no interval";
  return {said, groups, labels, series, curveOf, control, follow, wilson, student, count, many, points, range, inSplit, nameOf,
    styleOf};
})();

sl.view("study", section => {
  const {el, run, percent, number, isNumber} = sl, {said, count, many, points, wilson, student, range, curveOf} = sl.study;
  const out = [], add = text => { if (text) out.push(el("li", {}, text)); };
  const peak = values => d3.scan(values, (a, b) => (isNumber(b) ? b : -Infinity) - (isNumber(a) ? a : -Infinity));
  const ofAll = list => (list || []).find(one => one.group === 0);

  // The largest mean of a curve, and whether its interval stands clear of the others'.
  function largest({values, low, high}, what) {
    const at = peak(values), rivals = d3.range(values.length).filter(i => i !== at && high[i] >= low[at]).length;
    const doubt = !isNumber(low[at]) ? ` That is one example: it has no interval.` : rivals === 0 ? ""
      : ` The ${rivals === 1 ? "interval" : "intervals"} of ${many(rivals, `other ${what}`)} `
        + `${rivals === 1 ? "reaches" : "reach"} into its own: which is largest is not sure.`;
    return {at, value: values[at], doubt};
  }

  if (said.scored > 0) {
    const [low, high] = wilson(said.correct, said.scored);
    add(`${points(said.correct / said.scored)} of ${many(said.scored, "answer")} ${said.scored === 1 ? "is" : "are"} the `
      + `expected one (95 % interval ${points(low)} to ${points(high)}).`);
  }
  for (const [key, name, costs] of [["correct", "accuracy", "at most one point of accuracy"], ["logit", "target",
    `the answer’s target at most ${percent(said.cliff.share)} of the picture’s whole effect on it`]]) {
    const one = ofAll(said.cliff[key]);
    if (!one) continue;
    const last = one.mean.length - 1, {value, low, high} = one.estimate;
    const estimate = `(estimate ${value}, ${isNumber(low) ? "95 % interval " : ""}${range(one.estimate)}, `
      + `${many(one.pictures, "picture")}${[value, low, high].includes(last) ? `; ${last} means none` : ""})`;
    add(one.layer === last
      ? `Hiding the picture is never clearly free for the ${name}: there is no cliff before the last layer ${estimate}.`
      : `From layer ${one.layer} on, hiding the picture costs ${costs}: the cliff layer by the ${name} ${estimate}.`);
  }
  const share = ofAll(said.curves["flow.image_share"]), mass = ofAll(said.curves["cam.mass_share"]);
  if (share) {
    const curve = curveOf("flow.image_share", share), {at, value, doubt} = largest(curve, "layer"), last = curve.values.length - 1;
    add(`The position that predicts the answer puts most attention on the image in layer ${at}${at === last
      ? `, the last: ${percent(value)} on average.` : `: ${percent(value)} on average; ${percent(curve.values[last])} in the last `
        + "layer."}${doubt}`);
  }
  if (mass) {
    const {at, value, doubt} = largest(curveOf("cam.mass_share", mass), "layer");
    add(`The answer’s sensitivity to image features (LLaVA-CAM) is on average largest in layer ${at}: ${percent(value)} of that of `
      + `each example’s strongest layer.${doubt}`);
  }
  const heads = said.heads;
  if (heads.mean.length > 0) {
    const half = heads.mean.map((mean, i) => isNumber(heads.se[i]) ? student(heads.n[i]) * heads.se[i] : NaN);
    const {at, value, doubt} = largest({values: heads.mean, low: heads.mean.map((mean, i) => mean - half[i]),
      high: heads.mean.map((mean, i) => mean + half[i])}, "head");
    add(`On average layer ${heads.layer[at]}, head ${heads.head[at]} adds most: ${number(value)}`
      + `${isNumber(half[at]) ? ` ± ${number(half[at], 2)}` : ""} over ${many(heads.n[at], "example")}.${doubt}`);
  }
  add(said.failed > 0 ? `${many(said.failed, "example")} failed (${points(said.failed / said.rows)}).` : "No example failed.");

  const whole = Number(said.facts.examples), missing = whole - said.rows;
  const cliffOf = key => {
    const one = ofAll(said.cliff[key]);
    return !one ? null : one.layer === one.mean.length - 1 ? "none" : one.layer;
  };
  const analyses = Object.keys(said.plan.analyses), elsewhere = analyses.filter(name => !["flow", "cam", "cliff", "heads"].includes(name));
  const short = [
    ["examples", count(said.rows)],
    ["of the data file’s", missing > 0 ? count(whole) : null],
    ["failed", count(said.failed)],
    ["pictures", count(said.pictures)],
    ["answers as expected", said.scored > 0 ? points(said.correct / said.scored) : null],
    ["cliff by accuracy", cliffOf("correct")],
    ["cliff by target", cliffOf("logit")],
    ["model", run.model.name],
    ["layers", run.model.n_layer || null],
    ["heads in each", run.model.n_head || null],
    ["analyses", analyses.join(", ") || null],
  ].filter(([, value]) => value !== null && value !== undefined);
  section.classList.add("summary");
  section.append(
    el("div", {class: "facts short"}, el("p", {class: "eyebrow"}, "In short"),
      el("dl", {}, short.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]))),
    el("div", {class: "words"},
      el("p", {class: "eyebrow"}, "Study"),
      el("h1", {}, `${said.data}: ${many(said.rows, "example")}`),
      missing > 0 ? el("p", {class: "caption"}, `${count(missing)} of the data file’s ${many(whole, "example")} ${missing === 1
        ? "is" : "are"} not in it` + (said.facts.shard === "0/1" ? " yet." : ` (shard ${said.facts.shard}).`)) : null,
      el("h2", {class: "small"}, "What the numbers say"),
      el("ol", {class: "findings"}, out),
      elsewhere.length > 0 ? el("p", {class: "caption", id: "elsewhere"}, `This page does not sum up ${elsewhere.join(" and ")}: each `
        + "example’s own results are in the tables “scalar” and “series” of the study’s database.") : null,
      el("p", {class: "caption"},
        "Layers count from 0. Intervals are of 95 %. Those of cliff curves draw pictures with all of their examples; the others count "
          + "examples as independent: many questions about one picture make them too narrow. "
        + "Attention and gradients show where information could come from, not by themselves what caused the "
        + "answers.")));
});
