// Logit lens: what the model would say if it stopped after a layer, at the final token and on the image.
"use strict";

sl.view("lens", section => {
  const {el, facts, tensor, chart, percent, number, state} = sl, said = (sl.run.analyses || {}).lens || {};
  const prob = tensor("lens.final_prob"), rank = tensor("lens.final_rank"), image = tensor("lens.image_answer");
  if (!prob || !rank) return false;
  const n = prob.shape[0], L = n - 1, top = Array.isArray(said.top) ? said.top : [], share = tensor("lens.final_top_prob");
  const answer = "“" + sl.word(said.token ?? facts.predicted(0)) + "”", most = d3.max(rank.values);
  const name = k => k === L ? "after the last layer" : k === 0 ? "before layer 0" : `before layer ${k}`;

  section.append(el("p", {class: "lead"},
    "The last norm and the output matrix are applied to the residual stream before every layer: what would the model answer if it "
      + "stopped there?"));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  const table = () => ({head: ["before layer", "rank of " + answer, "probability", "most likely"],
    rows: d3.range(n).map(k => [k === L ? "end" : k, rank.values[k], percent(prob.values[k]),
      (top[k] || []).map(text => sl.word(text)).join(" · ")])});
  const decided = Number.isInteger(said.decided) ? said.decided : null;
  const ranks = sl.figure(grid, {name: "lens_rank", title: `Rank of ${answer} at the final token`, table,
    read: "1 at the top: the answer would be the model’s choice. Logarithmic." + (decided === null ? ""
      : ` From point ${decided} on it stays first.`),
    not: "Early layers need not speak the language of the output matrix; a poor rank there does not mean the answer is not present."});
  chart.lines(ranks.body, [{name: "rank", values: rank.values, colour: "--s-attention", shape: "circle"}],
    {height: 230, points: n, name, scale: "log", domain: [Math.max(2, most), 1], ticks: ticksTo(most), format: String,
      axisLabel: `before layer (${L} = the end)`,
      marks: [[decided === L ? null : decided, "first from here on"]], label: "rank of the answer over layers"});
  const likely = sl.figure(grid, {name: "lens_prob", title: `Probability of ${answer} at the final token`, table,
    read: "The same points."});
  chart.lines(likely.body, [{name: "probability", values: prob.values, colour: "--s-cam", shape: "square", hollow: true}],
    {height: 230, points: n, name, domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], format: percent,
      axisLabel: `before layer (${L} = the end)`, plainTop: true, label: "probability of the answer over layers"});
  if (top.length === n) addTop();
  if (image) addImage();
  return true;

  function ticksTo(value) {
    const ticks = [1];
    while (ticks[ticks.length - 1] * 10 <= value) ticks.push(ticks[ticks.length - 1] * 10);
    return ticks;
  }

  function addTop() {
    const body = el("tbody", {}, d3.range(n).map(k => el("tr", {}, el("th", {scope: "row"}, k === L ? "end" : String(k)),
      top[k].map((text, i) => el("td", {class: sl.word(text) === sl.word(said.token) ? "own" : ""}, sl.word(text),
        share ? el("small", {}, " " + percent(share.at(k, i))) : null)))));
    const figure = sl.figure(section, {name: "lens_top", title: "Most likely words at the final token", wide: true, canvas: () => null,
      read: `One line per layer, most likely first; framed: ${answer}.`});
    figure.figure.querySelector(".tools").remove();
    figure.body.append(el("div", {class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Most likely words"},
      el("table", {class: "tops"}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "before layer"),
        d3.range(top[0].length).map(i => el("th", {scope: "col"}, String(i + 1))))), body)));
  }

  // The answer's probability on every image token, with each token's own first word.
  function addImage() {
    const N = image.shape[1], words = tensor("lens.image_top"), wordShare = tensor("lens.image_top_prob"), texts = said.image_texts || {};
    const view = {point: d3.scan(d3.range(n), (a, b) => sl.maps.top(image.at(b)) - sl.maps.top(image.at(a)))}, canvas = sl.maps.canvas(480,
      {role: "img", id: "lens-canvas"}), told = el("p", {class: "strong"}), list = el("tbody", {});
    const figure = sl.figure(section, {name: "lens_image", title: `${answer} on the image tokens`, wide: true, canvas: () => canvas,
      read: "The same question put to every image token: how likely would its residual make the answer’s first token? Yellow is the "
        + "largest value of the chosen layer."
        + (sl.maps.placed(image.shape[1]) ? " Framed: the five image tokens of the list. Point at a patch for the word that it makes "
          + "most likely." : ""),
      not: "Nobody decodes image tokens in normal use. A patch that spells the answer is a sign that its content is present there, not "
        + "that the answer is read from it."});
    const slider = sl.slider("Before layer", 0, L, 1, view.point, value => { view.point = value; draw(); });
    slider.input.id = "lens-slider";
    slider.field.classList.add("long");
    figure.body.append(el("div", {class: "beside wide"}, el("div", {class: "plate"}, canvas), el("div", {class: "readout"}, sl.maps.viewSwitch(),
      slider.field, told,
      el("table", {class: "words"}, el("thead", {}, el("tr", {}, ["image token", "the answer", "rank",
        "its own first word"].map(title => el("th", {scope: "col"}, title)))), list))));
    if (!sl.maps.placed(N)) figure.body.append(el("p", {class: "caption"}, sl.maps.placeNote(N)));
    const places = tensor("lens.image_rank");
    const wordOf = i => {
      const id = words ? words.at(view.point, i) : null;
      return id === null || texts[id] === undefined ? sl.dash : `“${sl.word(texts[id])}”`
        + (wordShare ? ` ${percent(wordShare.at(view.point, i))}` : "");
    };
    sl.maps.pointed(canvas, N, i => [`image token ${i}`, `most likely word: ${wordOf(i)}`, `${answer}: ${percent(image.at(view.point, i))}`,
      places ? `rank of ${answer}: ${places.at(view.point, i)}` : null]);
    function draw() {
      const row = image.at(view.point), high = sl.maps.top(row);
      const best = sl.maps.inSheet(N).slice().sort((a, b) => row[b] - row[a]).slice(0, 5);
      slider.input.value = view.point;
      slider.output.textContent = view.point === L ? "end" : `${view.point} / ${L}`;
      slider.input.setAttribute("aria-valuetext", name(view.point));
      sl.maps.paint(canvas, row, {maximum: high, strength: 0.8, smooth: false, outline: sl.maps.hasMask()});
      if (sl.maps.placed(N)) sl.maps.frames(canvas, best, N);
      canvas.setAttribute("aria-label", `Probability of ${answer} on image tokens, ${name(view.point)}`);
      told.textContent = `${name(view.point)[0].toUpperCase() + name(view.point).slice(1)}: at most ${percent(high)}`;
      list.replaceChildren(...best.map(i => el("tr", {}, el("th", {scope: "row"}, String(i)), el("td", {}, percent(row[i])),
        el("td", {}, places ? String(places.at(view.point, i)) : sl.dash), el("td", {}, wordOf(i)))));
    }
    draw();
    sl.on("sheet", draw);
    sl.on("layer", () => { view.point = state.layer; draw(); });
  }
});
