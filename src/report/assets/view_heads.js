// Head attribution: which heads carry the picture into the answer, and how far that can be trusted.
"use strict";

sl.view("heads", section => {
  const {el, facts, tensor, state, number, percent, fixed} = sl, said = (sl.run.analyses || {}).heads || {};
  const score = tensor("heads.score"), error = tensor("heads.stderr");
  if (!score) return false;
  const [nLayer, nHead] = score.shape, target = String(said.target ?? "logit"), regression = said.regression || {};
  const dropped = new Set((Array.isArray(said.dropped) ? said.dropped : []).map(pair => pair.join(",")));
  const others = [["single", "alone", "lost when only this head is cut off"], ["attention", "attention", "its attention on the image"],
    ["patching", "patching", "attribution patching"]].map(([key, short, words]) => ({key, short, words,
      values: tensor("heads." + key)})).filter(one => one.values);
  const format = (key, value) => key === "attention" ? percent(value) : number(value);
  const name = i => `layer ${Math.floor(i / nHead)} · head ${i % nHead}`;
  const within = i => error !== null && sl.isNumber(error.values[i]) && Math.abs(score.values[i]) < 2 * error.values[i];
  const withError = i => number(score.values[i]) + (error && sl.isNumber(error.values[i]) ? ` (standard error ${number(error.values[i], 2)})` : "");
  const choose = i => sl.set({scored: i, layer: Math.min(Math.floor(i / nHead), Math.max(0, facts.nLayer - 1)), head: i % nHead});
  const order = d3.range(nLayer * nHead).sort((a, b) => score.values[b] - score.values[a]);
  state.scored = order[0];
  const plain = ({"block": "cut off from the picture", "mean": "shown the mean of other pictures",
    "mean-all": "shown the mean of other pictures",
    "image": "shown another picture"})[(said.baseline || {}).kind] || "given the baseline instead of the picture";

  const half = said => said.keep_probability > 0 && said.keep_probability !== 0.5 ? `choice (${sl.percent(1 - said.keep_probability)})` : "half";
  section.append(el("p", {class: "lead"},
    `The model answered ${regression.masks ?? "many"} times, each time with another random ${half(regression)} of its heads ${plain}. `
    + `A regression then says what each head’s view of the picture adds to ${facts.measured(target, said.tokens > 1)}. With all heads it is `
      + `${number(said.all)}, with none ${number(said.none)}.`));
  const grid = el("div", {class: "grid two columns"}), left = el("div", {}), right = el("div", {});
  section.append(grid);
  grid.append(left, right);
  addMap(left);
  addPicture(right);
  addList(section);
  const curves = el("div", {class: "grid two"}), fits = el("div", {class: "grid three"});
  section.append(curves, fits);
  sl.attributionCurves(curves, "heads.", {unit: ["head", "heads"], kept: "see the picture", curves: said.curves,
    skipped: said.curves_skipped,
    names: {heads: "score", single: "single ablation", attention: "attention", patching: "attribution patching", random: "chance",
      "layer-matched random": "chance, as many per layer"}});
  sl.attributionFit(fits, "heads.", {regression, target, masks: "heads", grown: true});
  addMass(fits);
  return true;

  function addMap(parent) {
    const table = () => ({head: ["layer", "head", "score", "standard error", ...others.map(one => one.words)],
      rows: d3.range(nLayer * nHead).map(i => [Math.floor(i / nHead), i % nHead, number(score.values[i]), error ? number(error.values[i], 2)
        : sl.dash,
        ...others.map(one => format(one.key, one.values.values[i]))])});
    const figure = sl.figure(parent, {name: "heads_score", title: "What each head’s view of the picture adds", table,
      read: `One cell per layer and head; the area of the square is the score’s size, in units of the ${target}. Full squares raise the `
        + `answer, hollow ones lower it. `
        + "Choose a head with the pointer or the arrow keys.",
      not: "A score is an average over random sets of the other heads. It says little about heads that only work together, or only stand "
        + "in for one another."});
    const holder = el("div", {});
    figure.body.append(holder);
    const marks = facts.nLayer === nLayer ? [[facts.attentionCliff, "attention cliff"]] : [];
    const map = sl.squares.map(holder, {columns: nLayer, rows: nHead, value: (l, h) => score.at(l, h), rowName: "head", marks,
      keys: "scored",
      weak: (l, h) => within(l * nHead + h), label: "Map of head scores.", selected: () => [Math.floor(state.scored / nHead),
        state.scored % nHead],
      choose: (l, h) => choose(l * nHead + h),
      lines: (l, h) => [name(l * nHead + h), dropped.has(`${l},${h}`) ? "never sees the image" : `score ${withError(l * nHead + h)}`,
        ...others.map(one => `${one.words}: ${format(one.key, one.values.at(l, h))}`)]});
    figure.body.append(sl.squares.legend(map.largest(), {plus: "raises the answer", minus: "lowers it", weak: error
      ? "pale: less than two standard errors from 0" : null}));
  }

  // The chosen head: its attention on the picture, and everything that is known about it.
  function addPicture(parent) {
    const maps = tensor("flow.image_heads"), canvas = sl.maps.canvas(420, {role: "img", id: "scored-picture"}),
      words = el("div", {class: "readout"});
    const figure = sl.figure(parent, {name: "heads_picture", title: "The chosen head", canvas: maps ? () => canvas : () => null,
      not: maps ? "The map is the head’s attention in the plain run: where it reads, not what it makes of it." : null});
    if (!maps) figure.figure.querySelector(".tools").remove();
    figure.body.append(maps && sl.maps.viewSwitch() || "", el("div", {class: "beside even"}, maps ? canvas : null, words));
    const draw = () => {
      const i = state.scored, l = Math.floor(i / nHead), h = i % nHead;
      const entries = [["score", withError(i)], ...others.map(one => [one.words, format(one.key, one.values.values[i])]),
        ["rank by score", `${order.indexOf(i) + 1} of ${order.length}`]];
      words.replaceChildren(el("p", {class: "strong"}, `Layer ${l} · head ${h}`), dropped.has(`${l},${h}`) ? el("p", {},
        "This head never sees the image.") : "",
        el("dl", {}, entries.map(([key, value]) => [el("dt", {}, key), el("dd", {}, value)])));
      if (!maps) return;
      const row = maps.at(l, h), maximum = sl.maps.top(row);
      sl.maps.paint(canvas, row, {maximum, strength: 0.75, outline: true});
      canvas.setAttribute("aria-label", `Attention of layer ${l}, head ${h} on the picture`);
      words.append(el("p", {class: "caption"},
        `Yellow: ${percent(maximum)} of its attention on one image token, by the position that predicts `
          + `“${sl.word(facts.predicted(0))}”.`));
    };
    draw();
    sl.on("scored sheet", draw);
  }

  function addMass(parent) {
    const mass = (Array.isArray(said.mass) ? said.mass : []).filter(pair => Array.isArray(pair) && pair.every(sl.isNumber));
    if (mass.length === 0) return;
    const figure = sl.figure(parent, {name: "heads_mass", title: "How few heads hold how much", canvas: () => null,
      table: () => ({head: ["top heads", "share of the sum of |score|"], rows: mass.map(([x, y]) => [percent(x), percent(y)])})});
    figure.figure.querySelector(".tools").remove();
    figure.body.append(el("ul", {class: "bars"}, mass.map(([x, y]) => el("li", {}, el("span", {}, `top ${percent(x)}`),
      el("span", {class: "track"},
      el("i", {style: `width:${(y * 100).toFixed(1)}%`})), el("b", {}, percent(y))))),
      sl.isNumber(said.centroid_layer) ? el("p", {class: "caption"},
        `Share of the sum of |score|. Its centre lies at layer ${fixed(said.centroid_layer, 1)} of 0–${nLayer - 1}.`) : "");
  }

  // All heads, sorted by any column; a row's first cell chooses its head.
  function addList(parent) {
    const columns = [{title: "head", value: i => i, show: name, up: true}, {title: "score", value: i => score.values[i],
      show: i => number(score.values[i])},
      ...(error ? [{title: "standard error", value: i => error.values[i], show: i => number(error.values[i], 2)}] : []),
      ...others.map(one => ({title: one.words, value: i => one.values.values[i], show: i => format(one.key, one.values.values[i])}))];
    const few = 12, view = {column: 1, up: false, all: false}, body = el("tbody", {}), rows = new Map();
    const figure = sl.figure(parent, {name: "heads_list", title: "Heads in order", wide: true, canvas: () => null,
      read: "Click a heading to sort by it, again to turn the order round."});
    figure.figure.querySelector(".tools").remove();
    const heads = columns.map((column, c) => el("th", {scope: "col"}, el("button", {type: "button", class: "sort", onclick: () => {
      view.up = view.column === c ? !view.up : Boolean(column.up);
      view.column = c;
      fill();
      sl.say(`Sorted by ${column.title}, ${view.up ? "smallest" : "largest"} first`);
    }}, column.title)));
    const more = el("button", {type: "button", onclick: () => { view.all = !view.all; fill(); }});
    const scroll = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Heads in order"},
      el("table", {class: "sortable"}, el("thead", {}, el("tr", {}, heads)), body));
    figure.body.append(scroll, order.length > few ? el("p", {class: "after more"}, more) : "");
    function fill() {
      const {value} = columns[view.column], key = i => sl.isNumber(value(i)) ? value(i) : -Infinity;
      const sorted = d3.range(order.length).sort((a, b) => (view.up ? key(a) - key(b) : key(b) - key(a)) || a - b).slice(0,
        view.all ? order.length : few);
      heads.forEach((head, c) => head.setAttribute("aria-sort", c !== view.column ? "none" : view.up ? "ascending" : "descending"));
      rows.clear();
      body.replaceChildren(...sorted.map(i => {
        const row = el("tr", {}, columns.map((column, c) => c ? el("td", {}, column.show(i)) : el("th", {scope: "row"},
          el("button", {type: "button", class: "quiet", "data-component": i, onclick: () => choose(i)}, column.show(i)))));
        rows.set(i, row);
        return row;
      }));
      scroll.classList.toggle("tall", !view.all);
      more.textContent = view.all ? `Show the first ${few} only` : `Show all ${order.length} heads`;
      mark();
    }
    function mark() {
      for (const [i, row] of rows) {
        row.className = i === state.scored ? "chosen" : "";
        row.querySelector("button").setAttribute("aria-pressed", String(i === state.scored));
      }
    }
    fill();
    sl.on("scored", mark);
  }
});
