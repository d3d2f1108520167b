// The head of the report: picture, question, answer, findings.
"use strict";

sl.view("summary", section => {
  const {el, run, facts} = sl, prompt = run.prompt || {};
  const compared = (run.analyses || {}).compare;
  if (compared && !run.prompt) { // a comparison has no picture and no question of its own
    section.append(el("h1", {}, `${(compared.runs || []).length} runs, compared head by head`),
      el("p", {class: "caption"}, run.model ? `${run.model.name ?? "model"}, ${run.model.n_layer ?? "?"} layers of ${run.model.n_head ?? "?"} heads.` : ""));
    return;
  }
  section.classList.add("summary");
  const canvas = sl.maps.canvas(672, {role: "img", id: "picture", "aria-label": "The picture"});
  const cropped = sl.maps.frame() ? " Outside the frame: cropped away, the model did not see it." : "";
  const note = el("p", {class: "caption", id: "patch"}, run.image ? `The picture: ${run.image.path ?? "?"}, ${run.image.width_px ?? "?"} × ${run.image.height_px ?? "?"} px.${cropped}` : "");
  const rest = note.textContent;
  let masked = false;
  const paint = () => sl.maps.paintPicture(canvas, masked);
  paint();

  const boxes = sl.tensor("image.box"), seen = sl.tensor("image.view"), maps = sl.tensor("flow.image") || sl.tensor("cam.heat");
  const n = boxes ? boxes.shape[0] : maps ? facts.tokens.filter(token => token.class === "image").length : 0;
  const positions = facts.tokens.map((token, i) => token.class === "image" ? i : -1).filter(i => i >= 0);
  canvas.addEventListener("mousemove", event => {
    if (!sl.maps.placed(n)) return;
    const area = canvas.getBoundingClientRect(), [width, height] = sl.maps.size();
    const i = sl.maps.tokenAt((event.clientX - area.left) / area.width * width, (event.clientY - area.top) / area.height * height, n);
    paint();
    const position = positions[sl.maps.shown(n).indexOf(i)], where = sl.maps.sheets.length > 1 && seen ? `, view ${seen.at(i)}` : "";
    note.textContent = i < 0 ? rest : `Image token ${i} of ${n}${where}` + (position === undefined ? "" : `, position ${position} of the prompt`) + ".";
    if (i < 0) return;
    const box = sl.maps.boxOf(i, n), context = canvas.getContext("2d"), sx = canvas.width / width, sy = canvas.height / height;
    for (const [style, size] of [["#000", 5], ["#fff", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = size;
      context.strokeRect(box[0] * sx, box[1] * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
    }
  });
  canvas.addEventListener("mouseleave", () => { paint(); note.textContent = rest; });

  // Where the model looks more than once, at the whole and at tiles of it.
  function views() {
    const {sheets, nameOf} = sl.maps, none = n - d3.sum(sheets, sheet => sheet.tokens.length);
    if (sheets.length < 2) return null;
    const parts = sheets.map(sheet => `${nameOf(sheet)} (${sheet.tokens.length} tokens${sheet.views.length > 1 ? ", side by side" : ""})`);
    return el("div", {id: "views"}, el("p", {class: "caption"},
      `The model looked at it in ${d3.sum(sheets, sheet => sheet.views.length)} views: ${parts.join("; ")}.`
      + (none > 0 ? ` ${none} more image tokens show no part of the picture, such as the ends of rows.` : "")
      + " Where views overlap, a map shows one of them, or those that lie side by side, at a time; the colour scale is the same for all."), sl.maps.viewSwitch());
  }

  const toggle = sl.maps.hasMask() ? el("label", {class: "check"}, el("input", {type: "checkbox", id: "show-mask",
    onchange: event => { masked = event.target.checked; paint(); }}), "show only the marked object") : null;
  const generated = facts.tokens.filter(token => token.class === "generated" && sl.isNumber(token.prob));
  // What an interruption left out, told before anything is read into what is there.
  const unfinished = Object.entries(run.analyses || {}).filter(pair => pair[1] && pair[1].interrupted).map(([name, said]) => `${name}: ${said.interrupted}.`);
  if (run.cancelled) unfinished.unshift("This run was interrupted: what was not complete is missing.");
  const given = prompt.answer_source !== undefined && prompt.answer_source !== "greedy";
  section.append(
    el("div", {class: "picture"}, canvas, note, toggle, views()),
    el("div", {class: "words"},
      el("p", {class: "eyebrow"}, "Question"),
      el("h1", {}, el("bdi", {}, prompt.question ?? "")),
      el("p", {class: "eyebrow"}, (given ? "Answer (given, not the model’s own)" : "The model’s answer") + (prompt.answer_cut ? ", cut at the length limit" : "")),
      el("p", {class: "answer"}, el("bdi", {}, prompt.answer ?? "")),
      unfinished.length > 0 ? el("div", {class: "notice", id: "unfinished"}, el("ul", {}, unfinished.map(line => el("li", {}, line)))) : "",
      el("p", {class: "caption"}, run.model ? `${run.model.name ?? "model"}, ${run.model.n_layer ?? "?"} layers of ${run.model.n_head ?? "?"} heads.` : "",
        generated.length > 0 ? ` Probability of the answer’s tokens: ${generated.slice(0, 8).map(token => `“${sl.word(facts.text(token))}” ${sl.percent(token.prob)}`).join(", ")}${generated.length > 8 ? ", …" : "."}` : ""),
      el("h2", {class: "small"}, "What the numbers say"),
      el("ol", {class: "findings"}, sl.findings().map(finding => el("li", {}, finding.text))),
      el("p", {class: "caption"}, "Layers count from 0. These are measurements of one run on one picture: attention and gradients show where information could come from, not by themselves what caused the answer.")));
});
