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
  const z = 1.96; // of 95 % intervals of means

  // Mean curves of the chosen groups, with intervals. more: of the group's number, for other names and styles.
  function series(name, more = () => ({})) {
    return (said.curves[name] || []).filter(one => inSplit(one.group)).map(one => ({name: nameOf(one.group),
      style: styleOf(one.group),
      values: one.mean.map(value => value ?? NaN), low: one.mean.map((value, i) => isNumber(one.se[i])
        ? value - z * one.se[i] : NaN),
      high: one.mean.map((value, i) => isNumber(one.se[i]) ? value + z * one.se[i] : NaN),
        note: `${count(d3.max(one.n))} examples`,
      ...more(one.group)}));
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

  // Wilson's interval of a share.
  function wilson(k, n) {
    if (!n) return [NaN, NaN];
    const p = k / n, centre = (p + z * z / (2 * n)) / (1 + z * z / n);
    const half = z / (1 + z * z / n) * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    return [Math.max(0, centre - half), Math.min(1, centre + half)];
  }

  const count = n => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const points = value => isNumber(value) ? String(Number((value * 100).toFixed(1))).replace("-", "−") + "\u202f%"
    : sl.dash;
  const range = one => one && isNumber(one.low) && isNumber(one.high) ? one.low === one.high ? `${one.low}`
    : `${one.low} to ${one.high}` : sl.dash;
  return {said, groups, labels, series, control, follow, wilson, count, points, range, inSplit, nameOf, styleOf};
})();

sl.view("study", section => {
  const {el, run, percent, number, fixed, isNumber} = sl, {said, count, points, wilson, range} = sl.study;
  const out = [], add = text => { if (text) out.push(el("li", {}, text)); };
  const peak = values => d3.scan(values, (a, b) => (isNumber(b) ? b : -Infinity) - (isNumber(a) ? a : -Infinity));
  const mean = name => ((said.curves[name] || []).find(one => one.group === 0) || {}).mean;

  if (said.scored > 0) {
    const [low, high] = wilson(said.correct, said.scored);
    add(`${points(said.correct / said.scored)} of ${count(said.scored)} answers are the expected one (95 % interval `
      + `${points(low)} to ${points(high)}).`);
  }
  for (const [key, words] of [["correct", "costs at most one point of accuracy"], ["logit",
    "costs the answer’s target next to nothing"]]) {
    const one = (said.cliff[key] || []).find(curve => curve.group === 0);
    if (!one) continue;
    const last = one.mean.length - 1;
    add(one.layer === last
      ? `Hiding the picture is never clearly free for ${key === "correct" ? "the accuracy" : "the target"}: there is `
        + `no cliff before the last layer (estimate ${one.estimate.value}, 95 % interval ${range(one.estimate)}).`
      : `From layer ${one.layer} on, hiding the picture ${words}: the cliff layer (estimate ${one.estimate.value}, 95 `
        + `% interval ${range(one.estimate)}).`);
  }
  const share = mean("flow.image_share"), mass = mean("cam.mass_share");
  if (share) add(`The position that predicts the answer puts most attention on the image in layer ${peak(share)}: `
    + `${percent(share[peak(share)])} on average; ${percent(share[share.length - 1])} in the last layer.`);
  if (mass) add(`The answer’s sensitivity to image features (LLaVA-CAM) is largest in layer ${peak(mass)}.`);
  const heads = said.heads;
  if (heads.mean.length > 0) {
    const best = peak(heads.mean);
    add(`On average layer ${heads.layer[best]}, head ${heads.head[best]} adds most: `
      + `${number(heads.mean[best])}${isNumber(heads.se[best]) ? ` ± ${number(1.96 * heads.se[best], 2)}` : ""} over `
      + `${count(heads.n[best])} examples.`);
  }
  add(said.failed > 0 ? `${count(said.failed)} ${said.failed === 1 ? "example" : "examples"} failed `
    + `(${points(said.failed / said.rows)}).` : "No example failed.");

  const whole = Number(said.facts.examples), missing = whole - said.rows;
  const cliff = [...said.cliff.correct || [], ...said.cliff.logit || []].find(one => one.group === 0);
  const short = [
    ["examples", count(said.rows)],
    ["of the data file’s", missing > 0 ? count(whole) : null],
    ["failed", count(said.failed)],
    ["pictures", count(said.pictures)],
    ["answers as expected", said.scored > 0 ? points(said.correct / said.scored) : null],
    ["cliff layer", cliff ? cliff.layer : null],
    ["model", run.model.name],
    ["layers", run.model.n_layer || null],
    ["heads in each", run.model.n_head || null],
    ["analyses", Object.keys(said.plan.analyses).join(", ") || null],
  ].filter(([, value]) => value !== null && value !== undefined);
  section.classList.add("summary");
  section.append(
    el("div", {class: "facts short"}, el("h2", {class: "small"}, "In short"),
      el("dl", {}, short.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]))),
    el("div", {class: "words"},
      el("p", {class: "eyebrow"}, "Study"),
      el("h1", {}, `${said.data}: ${count(said.rows)} examples`),
      missing > 0 ? el("p", {class: "caption"}, `${count(missing)} of the data file’s ${count(whole)} examples are not in it`
        + (said.facts.shard === "0/1" ? " yet." : ` (shard ${said.facts.shard}).`)) : null,
      el("h2", {class: "small"}, "What the numbers say"),
      el("ol", {class: "findings"}, out),
      el("p", {class: "caption"},
        "Layers count from 0. Intervals are of 95 %. Those of cliff curves draw pictures with all of their examples; the others count "
          + "examples as independent: many questions about one picture make them too narrow. "
        + "Attention and gradients show where information could come from, not by themselves what caused the "
        + "answers.")));
});
