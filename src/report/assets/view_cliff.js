// Truncation: from which layer on the answer no longer needs the image.
"use strict";

sl.view("cliff", section => {
  const {el, facts, tensor, chart, number, percent} = sl, said = (sl.run.analyses || {}).cliff || {};
  const value = tensor("cliff.logit"), prob = tensor("cliff.prob");
  if (!value) return false;
  const n = value.shape[0], L = n - 1, at = d3.range(n), kept = Number(said.keep) || 0;
  const target = String(said.target ?? "logit"), measured = facts.measured(target, said.whole_answer), plain = value.values[L], none = sl.isNumber(said.no_image) ? said.no_image
    : value.values[0];
  const eps = sl.isNumber(said.eps) ? said.eps : 0.05, slack = eps * Math.abs(plain - none);
  const layer = k => Number.isInteger(k) && k >= 0 && k <= L ? k : null;
  const cliff = layer(said.layer), answers = Array.isArray(said.answer) ? said.answer : [];
  const name = k => k === L ? "never hidden: the plain run" : k === 0 ? (kept ? "hidden from layer 0 on"
    : "hidden from layer 0 on: no image at all") : `hidden from layer ${k} on`;

  section.append(el("p", {class: "lead"}, kept
    ? `All but ${kept} image tokens are hidden from layer k on. What is left of ${measured}?`
    : `The image is hidden from every later position, from layer k on. What is left of ${measured}? Where the curve has `
      + `reached its end, the model has already taken from the image what it needs.`));

  const marks = [[cliff === L ? null : cliff, "cliff layer"], [facts.attentionCliff, "attention cliff"], [facts.camCliff, "CAM cliff"]];
  const options = {height: 250, points: n, name, marks, axisLabel: `hidden from this layer on (${L} = never)`};
  const table = () => ({head: ["hidden from", target, "probability", "answer"],
    rows: at.map(k => [k === L ? "never" : k, number(value.values[k]), prob ? percent(prob.values[k]) : sl.dash, answers[k] ?? sl.dash])});

  const figure = sl.figure(section,
    {name: "cliff", title: `${measured[0].toUpperCase() + measured.slice(1)} when the image is cut off`, wide: true, table,
    read: "Each point is one run of the model with the image hidden from that layer on; the last point is the plain run. "
      + `The hatched band is where the ${target} counts as kept: no more than ${percent(eps)} of the whole effect of the image below the `
        + `plain run. The cliff layer is the first from which on the curve does not fall below it.`,
    not: kept ? "Which tokens are kept was decided by their rank one layer before; another ranking gives another curve."
      : "What the question’s own tokens have already copied from the image stays: this shows when the image was read, not that it no "
        + "longer matters."});
  const finite = Array.from(value.values).filter(sl.isNumber), low = d3.min([...finite, plain - slack]),
    high = d3.max([...finite, plain + slack]);
  const room = (high - low || 1) * 0.06;
  chart.lines(figure.body, [{name: target, values: value.values, colour: "--s-attention", shape: "circle"}],
    {...options, domain: [low - room, high + room], band: [plain - slack, high + room], label: `${target} over the first hidden layer`});

  const grid = el("div", {class: "grid two"});
  section.append(grid);
  if (prob) {
    const likely = sl.figure(grid, {name: "cliff_prob", title: "Probability of the answer’s first token", table,
      read: "The same runs. A probability saturates near 0 and 1, so it may hide what the curve above shows."});
    chart.lines(likely.body, [{name: "probability", values: prob.values, colour: "--s-cam", shape: "square", hollow: true}],
      {...options, height: 230, domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], format: percent, plainTop: true,
        label: "probability over the first hidden layer"});
  }
  if (answers.length === n) addAnswers();
  if (tensor("cliff.rank_logit") && Array.isArray(said.ranks)) addRanks();

  // Runs of cuts with the same answer: one line each.
  function addAnswers() {
    const runs = [];
    answers.forEach((text, k) => {
      const last = runs[runs.length - 1];
      if (last && last.text === text) last.end = k;
      else runs.push({text, first: k, end: k});
    });
    const own = answers[L];
    const rows = runs.map(run => el("li", {class: run.text === own ? "same" : ""},
      el("span", {class: "cut"}, run.first === run.end ? (run.first === L ? "plain run" : `layer ${run.first}`)
        : `layers ${run.first}–${run.end === L ? L - 1 + " and plain run" : run.end}`),
      el("span", {class: "said"}, run.text === null ? sl.dash : run.text === "" ? "(ends at once)" : String(run.text))));
    const words = sl.figure(grid, {name: "cliff_answers", title: "The answer that each cut gives", table, canvas: () => null,
      read: "Greedy answers with the image hidden from those layers on. Framed: the same as the plain answer."
        + (Number.isInteger(said.answer_layer)
          ? ` From layer ${said.answer_layer === L ? L + " (the plain run)" : said.answer_layer} on it does not change any more.` : "")});
    words.figure.querySelector(".tools").remove();
    words.body.append(el("ol", {class: "answers"}, rows));
  }

  // One curve per ranking; the random orders as their mean.
  function addRanks() {
    const curves = tensor("cliff.rank_logit"), list = said.ranks, drawn = r => sl.isNumber(list[r].order),
      orders = d3.range(list.length).filter(drawn);
    const series = d3.range(list.length).filter(r => !drawn(r)).map((r, i) => ({name: String(list[r].rank), values: curves.at(r),
      style: sl.curve.rankStyles[i % sl.curve.rankStyles.length],
      note: sl.isNumber(list[r].loss) ? `loss ${number(list[r].loss)}` : null}));
    if (orders.length) {
      series.push({name: orders.length > 1 ? `chance (mean of ${orders.length})` : "chance", style: sl.curve.styles[4],
        values: at.map(k => d3.mean(orders, r => curves.at(r, k)) ?? NaN),
        note: sl.isNumber((said.chance || {}).loss) ? `loss ${number(said.chance.loss)}` : null});
    }
    if (series.length < 2) return;
    const all = series.flatMap(one => Array.from(one.values)).filter(sl.isNumber), body = el("div", {});
    const ranks = sl.figure(section, {name: "cliff_ranks", title: `Which ${kept} tokens to keep?`, wide: true,
      read: "One curve per ranking at the same number of kept tokens; the higher, the better the ranking found what the answer needs. The "
        + "loss is the mean of plain run minus cut over the cuts that all rankings have: below 0 is better than the plain run.",
      not: "One picture does not rank the rankings.",
      table: () => ({head: ["hidden from", ...list.map((one, r) => String(one.rank) + (drawn(r) ? ` ${one.order + 1}` : ""))],
        rows: [...at.map(k => [k === L ? "never" : k, ...list.map((one, r) => number(curves.at(r, k)))]),
          ["mean loss", ...list.map(one => number(one.loss))], ["same first token", ...list.map(one => percent(one.same_token))],
          ["cliff layer", ...list.map(one => one.layer ?? sl.dash)]]})});
    ranks.body.append(body, sl.curve.key(series));
    sl.curve.curves(body, series, {x: at, height: 280, axis: options.axisLabel, name, domain: d3.extent(all),
      label: `${target} for every ranking`});
  }
  return true;
});
