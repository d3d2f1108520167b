// The page of an evaluation: numbers by the official rules, the cliff curve, the answers that lost points.
"use strict";

sl.evaluation = (() => {
  const {el, run, isNumber} = sl, titles = {pope: "POPE", scienceqa: "ScienceQA", textvqa: "TextVQA", chair: "CHAIR", "main-object": "Main objects"};
  const names = {accuracy: "accuracy", precision: "precision", recall: "recall", f1: "F1", yes_ratio: "share of yes", chair_s: "CHAIRs", chair_i: "CHAIRi",
    length: "words", count: "questions", parse_failed: "not understood"};
  const count = n => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const many = (n, word) => `${count(n)} ${n === 1 ? word : word + "s"}`;
  const points = value => !isNumber(value) ? sl.dash : value > 0.9995 && value < 1 ? "99.9" : value > 0 && value < 0.0005 ? "< 0.1"
    : (value * 100).toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "−");
  const percent = value => isNumber(value) ? points(value) + "\u202f%" : sl.dash;
  const shown = (key, value) => !isNumber(value) ? sl.dash : key === "count" || key === "parse_failed" ? count(value) : key === "length" ? value.toFixed(1) : percent(value);
  const name = key => names[key] || key.replace(/_/g, " ");
  const Name = key => name(key)[0].toUpperCase() + name(key).slice(1);
  // The first cell of a row names it. tall: shown whole, however long.
  const first = "text-align:left;white-space:normal;min-width:6.5rem;max-width:16rem;overflow-wrap:anywhere";
  const table = (label, head, rows, kind = "tops", tall = false) => el("div", {class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": label}, el("table", {class: kind},
    el("thead", {}, el("tr", {}, head.map((text, i) => el("th", {scope: "col", style: i === 0 ? "text-align:left" : null}, text)))),
    el("tbody", {}, rows.map(row => el("tr", {}, row.map((cell, i) => i === 0 ? el("th", {scope: "row", style: first}, cell) : el("td", {}, cell)))))));
  const lower = run.benchmark === "chair", cliff = run.cliff && Array.isArray(run.cliff.curve) ? run.cliff : null;
  return {title: titles[run.benchmark] || run.benchmark, name, Name, count, many, points, percent, shown, table, lower, cliff, layers: cliff ? cliff.curve.length - 1 : 0};
})();

sl.view("eval", section => {
  const {el, run, isNumber} = sl, {title, name, Name, count, many, percent, cliff, layers, lower} = sl.evaluation, out = [], counts = run.counts, main = run.interval;
  const add = text => { if (text) out.push(el("li", {}, text)); };
  const estimate = () => {
    const {layer, low, high} = cliff.estimate, range = isNumber(low) ? `95 % interval ${low} to ${high}` : "no interval";
    return [layer, low, high].includes(layers) ? `${range}; ${layers} means none` : range;
  };
  if (isNumber(main.value)) add(`${Name(main.of)} is ${percent(main.value)}${isNumber(main.low) ? ` (95 % interval ${percent(main.low)} to ${percent(main.high)}, over draws of pictures)` : ""}${lower ? "; less is better" : ""}.`);
  if (cliff) {
    const blind = cliff.curve[0][cliff.of], whole = cliff.curve[layers][cliff.of];
    add(`With the picture hidden from the start it is ${percent(blind)}${lower ? `, with recall ${percent(cliff.curve[0].recall)}: captions that name nothing make nothing up` : ""}; with it to the end ${percent(whole)}.`);
    add(cliff.layer === layers ? `By the intervals of the differences the picture is never clearly free to go: there is no cliff before the last layer. By the numbers themselves it is at layer ${cliff.estimate.layer} (${estimate()}).`
      : `From layer ${cliff.layer} on hiding the picture costs no more than a point, by the intervals of the differences; by the numbers themselves from layer ${cliff.estimate.layer} on (${estimate()}).`);
  }
  if (counts.missing) add(`${many(counts.missing, "question")} ${counts.missing === 1 ? "has" : "have"} no prediction.`);
  add(counts.failed + counts.bad_rows > 0 ? `${many(counts.failed, "question")} failed, ${many(counts.bad_rows, "row")} of the files ${counts.bad_rows === 1 ? "is" : "are"} bad.` : "Nothing failed.");
  const short = [["questions", count(counts.examples)], ["answered", count(counts.answered)], [name(main.of), percent(main.value)], ["cliff layer", cliff ? cliff.layer === layers ? `none (of ${layers} layers)` : `${cliff.layer} of ${layers}` : null],
    ["model", run.model ? run.model.name : "others’ predictions"], ["rule", run.rule], ["prompt style", run.model ? run.settings.prompt_style : null], ["answers", run.model ? `greedy, at most ${run.settings.max_tokens} tokens` : null]];
  section.classList.add("summary");
  section.append(
    el("div", {class: "facts short"}, el("p", {class: "eyebrow"}, "In short"), el("dl", {}, short.filter(([, value]) => value !== null && value !== undefined)
      .map(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]))),
    el("div", {class: "words"}, el("p", {class: "eyebrow"}, "Evaluation"), el("h1", {}, `${title}: ${many(counts.examples, "question")}`),
      el("h2", {class: "small"}, "What the numbers say"), el("ol", {class: "findings"}, out),
      el("p", {class: "caption"}, `Scored as the published script does (${run.source}). Layers count from 0.`)));
});

sl.view("eval_numbers", section => {
  const {el, run} = sl, {name, shown, table} = sl.evaluation, groups = Object.entries(run.metrics.groups || {});
  const keys = Object.keys(run.metrics).filter(key => key !== "groups"), row = (label, numbers) => [label, ...keys.map(key => shown(key, numbers[key]))];
  section.append(table("Numbers", ["of", ...keys.map(name)], [row("all", run.metrics), ...groups.map(([group, numbers]) => row(group, numbers))], "", true));
  return true;
});

sl.view("eval_curve", section => {
  const {el, run, isNumber} = sl, {name, Name, points, percent, table, cliff, layers, lower} = sl.evaluation;
  if (!cliff) return false;
  const xs = d3.range(layers + 1), whole = cliff.curve[layers][cliff.of], others = {chair_s: ["recall", "chair_i"], accuracy: run.benchmark === "pope" ? ["f1"] : []}[cliff.of] || [];
  const hidden = k => k === layers ? "never hidden: the whole model" : `hidden from layer ${k} on`;
  const clip = value => Math.min(1, Math.max(0, value)), end = key => cliff.curve.map((point, k) => k === layers ? whole : clip(whole + point.difference[key]));
  const series = [{name: name(cliff.of), style: sl.curve.styles[0], values: cliff.curve.map(point => point[cliff.of]), low: end("low"), high: end("high")},
    ...others.map((key, i) => ({name: name(key), style: sl.curve.styles[i + 1], values: cliff.curve.map(point => point[key] ?? NaN)}))];
  section.append(el("p", {class: "lead"}, "Every question is asked again with the picture hidden from every later position, from layer k on. The cliff layer is the first from which on, there and in every later layer, the "
    + `${lower ? "upper" : "lower"} end of the paired 95 % interval of the difference to the whole model stays within one point. Wide intervals put it late. A few pictures that all agree have intervals of no width, and may put it early: read it with their number.`));
  const figure = sl.figure(section, {name: "curve", title: `${Name(cliff.of)} with the picture hidden from layer k on`, wide: true,
    read: "The band is the 95 % interval of the difference to the whole model, over draws of pictures, around the curve.",
    not: lower ? "A caption that says less makes less up: read the curve together with recall." : "What the question’s own tokens have already copied from the picture stays: this shows when it was read.",
    table: () => ({head: ["hidden from", ...series.map(one => one.name), "difference (points)", "low", "high"], rows: cliff.curve.map((point, k) => [k === layers ? "never" : k, ...series.map(one => percent(one.values[k])),
      ...["value", "low", "high"].map(key => k === layers ? sl.dash : points(point.difference[key]))])})});
  const holder = el("div", {});
  figure.body.append(holder);
  if (series.length > 1) figure.body.after(sl.curve.key(series));
  sl.curve.curves(holder, series, {x: xs, height: 300, axis: `${series.length > 1 ? "score" : name(cliff.of)}, by first hidden layer (${layers}: never)`, domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], format: percent, label: "Cliff curve", name: hidden,
    marks: cliff.layer < layers ? [{x: cliff.layer, label: `cliff layer ${cliff.layer}`}] : null});
  const paper = run.paper;
  if (paper) {
    const two = value => isNumber(value) ? value.toFixed(2) + "\u202f%" : sl.dash;
    section.append(el("h3", {}, "Beside the paper"), table("Published numbers", ["model", "number", "whole", "at its cliff layer"],
      [...paper.rows.map(row => [row.model + (row.same_family ? " (same family)" : ""), name(row.metric), two(row.whole_percent), two(row.truncated_percent)]),
        ...(paper.own || []).map(row => [el("b", {}, `${run.model.name}, here`), name(row.metric), two(row.whole_percent), `${two(row.truncated_percent)} (${cliff.layer === layers ? "none: the whole model" : `layer ${cliff.layer}`})`])], "", true),
    el("p", {class: "caption note"}, `${paper.source}. The paper’s cliff layer of LLaVA-1.5-7B, which has 32 layers: ${paper["cliff_layer_of_llava_1.5_7b"]}.${paper.note ? ` Note: ${paper.note}.` : ""}`));
  }
  return true;
});

sl.view("eval_answers", section => {
  const {el, run} = sl, {table, cliff, layers, many} = sl.evaluation, list = run.answers || [];
  if (list.length === 0) return false;
  const wanted = {pope: one => one.truth.label, scienceqa: one => `${"ABCDE"[one.truth.answer]}: ${one.truth.choices[one.truth.answer]}`, textvqa: one => [...new Set(one.truth.answers)].join(" / "),
    chair: one => Object.keys(one.truth.there).join(", "), "main-object": one => one.truth.label}[run.benchmark] || (() => sl.dash);
  const judged = {chair: one => one.judged.hallucinated.map(pair => pair[0]).join(", ")}[run.benchmark] || (one => `${one.judged.parsed ?? ""}`);
  section.append(el("p", {class: "lead"}, `${many(run.answers_lost, "answer")} did not get the best score${list.length < run.answers_lost ? `; the first ${list.length} are listed, predictions.jsonl has all` : ""}.`),
    table("Answers", ["question", "picture", "asked", "answer", run.benchmark === "chair" ? "made up" : "counted as", run.benchmark === "chair" ? "objects there" : "expected", ...(cliff ? ["settled from layer"] : [])],
      list.map(one => [one.id, one.image ?? "none", one.prompt, one.text || el("i", {}, "empty"), judged(one), wanted(one), ...(cliff ? [one.complete_from === layers ? "never" : String(one.complete_from)] : [])])));
  return true;
});

sl.view("eval_failures", section => {
  const {el, run} = sl, {table, many} = sl.evaluation, counts = run.counts;
  if (counts.failed + counts.bad_rows === 0) return false;
  section.append(el("p", {class: "lead"}, `${many(counts.failed, "question")} failed, ${many(counts.bad_rows, "row")} of the files ${counts.bad_rows === 1 ? "was" : "were"} left out${run.bad_rows.length < counts.bad_rows || run.errors.length < counts.failed ? "; the first of each are listed" : ""}.`),
    table("Failures", ["question", "what went wrong"], [...run.bad_rows.map(text => ["bad row", text]), ...run.errors.map(one => [one.id, one.error])], "tops failures"));
  return true;
});

sl.view("eval_made", section => {
  const {el, run} = sl, {count} = sl.evaluation, settings = run.settings, model = run.model || {}, compute = settings.compute || {};
  const list = (title, entries) => el("div", {class: "facts"}, el("h3", {}, title), el("dl", {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))])));
  const quote = word => /^[A-Za-z0-9_./:=,@%+-]+$/.test(word) ? word : "'" + String(word).replace(/'/g, "'\\''") + "'"; // for a POSIX shell
  const command = run.command.map(String), has = least => command.some(word => word.startsWith(least));
  const whole = [...command.slice(0, 2), ...(run.model && !has("--mo") ? ["--model", String(model.path)] : []), ...command.slice(2)];
  section.append(el("div", {class: "grid three"},
    list("Model", run.model ? [["name", model.name], ["folder", model.path], ["family", model.title], ["hash of weights", model.hash], ["layers", model.n_layer], ["computed with", [compute.backend, compute.mode, compute.products].filter(Boolean).join(", ")]]
      : [["predictions", settings.predictions]]),
    list("Data", [["files", run.data], ["hash", settings.data_hash], ["questions", count(run.counts.examples)], ["without a picture", run.counts.without_picture || null]]),
    list("Evaluation", [["benchmark", run.benchmark], ["rule", run.rule], ["prompt style", settings.prompt_style], ["decoding", run.model ? settings.decoding : null], ["seed of intervals", run.seed], ["sightline", run.sightline]])),
  command.length > 0 ? el("div", {class: "copyable"}, el("div", {class: "head"}, el("h3", {}, "The command that reproduces it")), el("pre", {id: "command", tabindex: "0"}, whole.map(quote).join(" ")),
    has("--f") ? null : el("p", {class: "caption"}, "Where its folder still exists, add --force to replace it.")) : "");
  return true;
});
