// Token attribution: which places of the picture give the answer what it needs, and which positions of the text take it.
"use strict";

sl.view("token_scores", section => {
  const {el, facts, tensor, number, percent} = sl, said = (sl.run.analyses || {}).tokens || {}, target = String(said.target ?? "logit");
  const image = tensor("tokens.image"), words = tensor("tokens.text");
  if (!image && !words) return false;
  const withError = (value, error, i) => number(value) + (error && sl.isNumber(error.values[i]) ? ` (standard error ${number(error.values[i], 2)})` : "");
  const within = (value, error, i) => error !== null && sl.isNumber(error.values[i]) && Math.abs(value) < 2 * error.values[i];

  const keep = ((said.image || said.text || {}).regression || {}).keep_probability;
  const halves = keep > 0 && keep !== 0.5 ? `random choices (${percent(1 - keep)})` : "random halves";
  section.append(el("p", {class: "lead"},
    "The picture enters the answer twice: image tokens give, positions of the text take. On either side the model answered with "
      + `${halves} cut off, and a regression says what each token adds to ${facts.measured(target, said.tokens > 1)}.`));
  if (image) addImage(said.image || {});
  if (words) addText(said.text || {});
  return true;

  function addImage(side) {
    const values = image.values, error = tensor("tokens.image_stderr"), n = values.length, least = values.map(value => -value);
    const positive = sl.maps.top(values), negative = sl.maps.top(least), maximum = Math.max(positive, negative);
    const sufficient = side.sufficient && Array.isArray(side.sufficient.image_positions)
      ? side.sufficient.image_positions.filter(i => Number.isInteger(i) && i >= 0 && i < n) : null;
    const view = {set: sufficient !== null, outline: sl.maps.hasMask()};
    section.append(el("h3", {class: "part"}, "What the picture gives"));
    const canvases = [sl.maps.canvas(480, {role: "img", id: "giving-canvas"}), sl.maps.canvas(480, {role: "img", id: "against-canvas"})];
    const joined = () => {
      const out = el("canvas", {width: canvases[0].width * 2 + 12, height: canvases[0].height}), context = out.getContext("2d");
      canvases.forEach((canvas, k) => context.drawImage(canvas, k * (canvas.width + 12), 0));
      return out;
    };
    const ranked = d3.range(n).sort((a, b) => values[b] - values[a]);
    const figure = sl.figure(section, {name: "tokens_image", title: "Score of every image token", wide: true, canvas: joined,
      read: "Left, what raises the answer; right, what lowers it: both on one colour scale, yellow is the largest score of either. Point "
        + `at a ${sl.maps.placed(image.values.length) ? "patch" : "bar"} for its score.`
        + (sufficient && sl.maps.placed(image.values.length) ? " White frames: the smallest set of tokens, best first, that gives back nine tenths of the picture’s effect alone."
          : ""),
      not: (side.block > 1 ? `Blocks of ${side.block} × ${side.block} patches were switched together; a block’s score is shared out `
        + `evenly over them. ` : "")
        + "A token may carry more than the patch it stands for: the vision tower mixes patches before the language model sees them.",
      table: () => ({head: ["image token", "score", "standard error"], rows: ranked.map(i => [i, number(values[i]),
        error ? number(error.values[i], 2) : sl.dash])})});
    const entries = [["with the whole picture", number(side.all)], ["without it", number(side.none)]];
    if (sl.isNumber(side.object_share)) entries.push(["of the helping scores, on the object", percent(side.object_share)],
      ["of the patches, on the object", percent(side.object_patches)]);
    if (sufficient) entries.push(["smallest sufficient set", `${sufficient.length} of ${n} tokens`]);
    if (sufficient && sl.isNumber(side.sufficient.object_share)) entries.push(["of that set, on the object",
      percent(side.sufficient.object_share)]);
    const check = (label, key) => {
      const input = el("input", {type: "checkbox", id: "giving-" + key, onchange: () => { view[key] = input.checked; draw(); }});
      input.checked = view[key];
      return el("label", {class: "check"}, input, label);
    };
    const plates = canvases.map((canvas, k) => el("div", {class: "plate"}, canvas, el("p", {class: "caption"},
      k ? `Lowers the answer, at most ${number(negative)}` : `Raises the answer, at most ${number(positive)}`)));
    const helping = d3.sum(values, value => Math.max(0, value));
    if (helping > 0) for (const [name, part] of sl.maps.sheetSums(values)) entries.push([`of the helping scores, on ${name}`, percent(part / helping)]);
    if (sl.maps.placed(n)) figure.body.append(sl.maps.viewSwitch() ?? "", el("div", {class: "checks"},
      sufficient ? check("frame the smallest sufficient set", "set") : null,
      sl.maps.hasMask() ? check("outline of the object", "outline") : null));
    figure.body.append(
      el("div", {class: "stage"}, plates, el("div", {class: "readout"}, el("dl", {}, entries.map(([name, value]) => [el("dt", {}, name),
        el("dd", {}, value)])))),
      el("div", {class: "legend"}, el("span", {}, "0"), el("span", {class: "ramp", style: `background:${sl.maps.gradient()}`, role: "img",
        "aria-label": "colour scale"}), el("span", {}, number(maximum))));
    if (!sl.maps.placed(n)) figure.body.append(el("p", {class: "caption"}, sl.maps.placeNote(n)));
    canvases.forEach((canvas, k) => {
      canvas.setAttribute("aria-label", k ? "Image tokens that lower the answer" : "Image tokens that raise the answer");
      sl.maps.pointed(canvas, n, i => [`image token ${i}`, `score ${withError(values[i], error, i)}`, within(values[i], error, i)
        ? "less than two standard errors from 0" : null]);
    });
    const draw = () => canvases.forEach((canvas, k) => {
      sl.maps.paint(canvas, k ? least : values, {maximum, strength: 0.8, smooth: false, outline: view.outline});
      if (k === 0 && view.set) sl.maps.frames(canvas, sufficient, n);
    });
    draw();
    sl.on("sheet", draw);
    const blocks = side.block > 1;
    fits("tokens.image_", side, blocks ? ["block", "blocks"] : ["image token", "image tokens"], "can be seen");
  }

  function fits(prefix, side, unit, kept) {
    const grid = el("div", {class: "grid three"});
    section.append(grid);
    sl.attributionCurves(grid, prefix, {unit, kept, curves: side.curves, skipped: side.curves_skipped, names: {tokens: "score",
      random: "chance"}});
    sl.attributionFit(grid, prefix, {regression: side.regression || {}, target, masks: unit[1]});
  }

  function addText(side) {
    const error = tensor("tokens.text_stderr"), rows = words.shape[0], bands = words.shape[1] || 1, banded = words.shape.length > 1;
    const positions = Array.isArray(side.positions) ? side.positions : null, classes = Array.isArray(side.classes) ? side.classes : null;
    const names = d3.range(rows).map(u => positions ? sl.word(facts.text(facts.tokens[positions[u]])) || "∅" : classes ? String(classes[u])
      : String(u));
    const value = u => d3.sum(d3.range(bands), b => words.values[u * bands + b]);
    const bandName = b => Array.isArray(side.bands) && side.bands[b] ? `layers ${side.bands[b][0]}–${side.bands[b][1]}` : "all layers";
    const most = Math.max(1e-30, d3.max(d3.range(rows), u => Math.abs(value(u)) || 0));
    section.append(el("h3", {class: "part"}, "What the text takes"));
    const grid = el("div", {class: "grid two columns"}), left = el("div", {}), right = el("div", {});
    section.append(grid);
    grid.append(left, right);
    const figure = sl.figure(left, {name: "tokens_text", title: "Score of every position after the image", canvas: () => null,
      read: "What a position’s own view of the picture adds to the answer. The bar under a word is the size of its score; full raises the "
        + "answer, hollow lowers it, pale is less than two standard errors from 0.",
      not: "A position with a score near 0 may still pass on what an earlier one has read.",
      table: () => ({head: [classes ? "class" : "position", "token", ...(banded ? d3.range(bands).map(bandName) : ["score",
        "standard error"])],
        rows: d3.range(rows).map(u => [positions ? positions[u] : u, names[u],
          ...(banded ? d3.range(bands).map(b => withError(words.values[u * bands + b], error, u * bands + b))
          : [number(value(u)), error ? number(error.values[u], 2) : sl.dash])])})});
    figure.figure.querySelector(".tools").remove();
    figure.body.append(el("ul", {class: "scored"}, d3.range(rows).map(u => {
      const v = value(u), width = Math.abs(v) / most * 100, pale = !banded && within(v, error, u);
      return el("li", {class: (v < 0 ? "minus" : "plus") + (pale ? " pale" : "")}, el("span", {class: "said"}, names[u]),
        el("span", {class: "track"}, el("i", {style: `width:${width.toFixed(1)}%`})),
        el("small", {}, number(v, 2)));
    })));
    if (banded) addBands();
    const share = side.share && typeof side.share === "object" ? Object.entries(side.share).filter(pair => sl.isNumber(pair[1])) : [];
    if (share.length) {
      const shares = sl.figure(right, {name: "tokens_roles", title: "Share by role", canvas: () => null,
        read: "Of the sum of all helping scores on the text side.",
        table: () => ({head: ["role", "share"], rows: share.map(([key, part]) => [key, percent(part)])})});
      shares.figure.querySelector(".tools").remove();
      const called = {question: "question", role: "role marker", final: "final position", generated: "earlier answer tokens"};
      shares.body.append(el("ul", {class: "bars"}, share.map(([key, part]) => el("li", {}, el("span", {}, called[key] ?? key),
        el("span", {class: "track"},
        el("i", {style: `width:${(part * 100).toFixed(1)}%`})), el("b", {}, percent(part))))));
    }
    fits("tokens.text_", side, classes ? ["class", "classes"] : banded ? ["position × band", "positions × bands"] : ["position",
      "positions"], "see the picture");

    function addBands() {
      const chosen = {at: [0, 0]};
      const map = sl.figure(left, {name: "tokens_bands", title: "By band of layers",
        read: "One row per position, one column per band: area is the score, full raises the answer, hollow lowers it."});
      const drawn = sl.squares.map(map.body, {columns: bands, rows, rowNames: names.map(name => name.slice(0, 6)), rowName: "",
        axis: "band of layers, first to last", value: (b, u) => words.values[u * bands + b],
        weak: (b, u) => within(words.values[u * bands + b], error, u * bands + b), label: "Scores by position and band.",
          selected: () => chosen.at,
        choose: (b, u) => { chosen.at = [b, u]; drawn.move(); }, lines: (b, u) => [names[u], bandName(b),
          `score ${withError(words.values[u * bands + b], error, u * bands + b)}`]});
    }
  }
});
