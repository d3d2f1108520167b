// Comparison of runs: how alike their head scores are, by class and appearance, and what that says in words.
"use strict";

sl.view("compare", section => {
  const {el, tensor, chart, number, fixed, percent, isNumber} = sl, said = (sl.run.analyses || {}).compare || {},
    runs = Array.isArray(said.runs) ? said.runs : [];
  const kinds = [["cosine", "cosine", -1], ["spearman", "Spearman’s ρ", -1], ["jaccard", `shared top ${said.top ?? "n"} heads`, 0]]
    .map(([key, title, low]) => ({key, title, low, values: tensor("compare." + key), told: said[key] || {}})).filter(one => one.values);
  const n = runs.length, stored = tensor("compare.order"), classes = Array.isArray(said.classes) ? said.classes : [],
    ofClass = tensor("compare.class");
  if (kinds.length === 0 || n < 2 || kinds[0].values.shape[0] !== n) return false;
  const order = stored ? Array.from(stored.values) : d3.range(n), view = {kind: kinds[0]}, classOf = i => ofClass ? ofClass.values[i] : -1;
  const label = i => `${String(runs[i].dir).replace(/\/+$/, "").split("/").pop()}${runs[i].class ? `, ${runs[i].class}` : ""}${runs[i].appearance ? `, ${runs[i].appearance}` : ""}`;
  const noun = sl.run.study ? "example" : "run", many = noun + "s"; // a study's page compares a sample of its examples
  const like = (i, j) => view.kind.values.at(i, j), redraw = [];
  // Colours begin at the least likeness there is, rounded down to tenths: from -1 on, all but unlike runs would be of one colour.
  const least = () => Math.max(view.kind.low, Math.min(0.9, Math.floor(d3.min(view.kind.values.values.filter(isNumber)) * 10) / 10));

  section.append(el("p", {class: "lead"},
    `Head scores of ${n} ${many}${said.of > n ? `, a sample of ${said.of},` : ","} compared pair by pair: do pictures of one kind reach the `
      + "answer through the same heads?"),
    el("div", {class: "controls"}, sl.radios("Likeness", "likeness", kinds.map((one, k) => ({value: k, label: one.title})), 0,
      k => { view.kind = kinds[k]; redraw.forEach(draw => draw()); sl.set({likeness: k}); })));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  addMatrix();
  addPairs();
  addTests();
  addClasses();
  return true;

  function addMatrix() {
    const side = 640, canvas = el("canvas", {width: side, height: side, role: "img", id: "likeness-canvas"});
    const figure = sl.figure(grid, {name: "compare_matrix", title: `How alike are two ${many}?`, canvas: () => canvas,
      read: `Rows and columns are the ${many}, class by class, alike ones side by side; white lines part the classes. Yellow is alike; the `
        + `scale begins at the least value there is. Point at a cell for its two ${many}.`,
      not: "Noise in the scores lowers every value" + (sl.run.study ? "; but a study measures all examples under the same masks, so that part of their noise is alike and raises it." : ": the ceiling in the next figure is what two fits of one and the same run reach."),
      table: () => ({head: [noun, "most like", view.kind.title], rows: order.map(i => {
        const best = d3.range(n).filter(j => j !== i).reduce((a, b) => like(i, b) > like(i, a) ? b : a);
        return [label(i), label(best), fixed(like(i, best), 3)];
      })})});
    const low = el("span", {}), high = el("span", {}, "1");
    figure.body.append(canvas, el("div", {class: "legend"}, low, el("span", {class: "ramp", style: `background:${sl.maps.gradient()}`,
      role: "img", "aria-label": "colour scale"}), high));
    const draw = () => {
      const context = canvas.getContext("2d", {willReadFrequently: true}), cell = side / n, floor = least();
      context.clearRect(0, 0, side, side);
      order.forEach((i, r) => order.forEach((j, c) => {
        const value = like(i, j);
        context.fillStyle = isNumber(value) ? sl.maps.colour((value - floor) / (1 - floor)) : "#999";
        context.fillRect(Math.floor(c * cell), Math.floor(r * cell), Math.ceil(cell), Math.ceil(cell));
      }));
      context.fillStyle = "#fff";
      order.forEach((i, r) => {
        if (r === 0 || classOf(i) === classOf(order[r - 1])) return;
        context.fillRect(r * cell - 1, 0, 2, side);
        context.fillRect(0, r * cell - 1, side, 2);
      });
      low.textContent = fixed(floor, 1);
      canvas.setAttribute("aria-label", `Likeness of ${n} ${many} by ${view.kind.title}`);
    };
    canvas.addEventListener("mousemove", event => {
      const box = canvas.getBoundingClientRect(), at = (x, size) => order[Math.min(n - 1, Math.max(0, Math.floor(x / size * n)))];
      const i = at(event.clientY - box.top, box.height), j = at(event.clientX - box.left, box.width);
      sl.tip.at(event, [`${view.kind.title} ${fixed(like(i, j), 3)}`, ...[i, j].map(k => label(k)
        + (runs[k].answer ? `: “${runs[k].answer}”` : ""))]);
    });
    canvas.addEventListener("mouseleave", sl.tip.hide);
    draw();
    redraw.push(draw);
  }

  // Distributions of pairs of one class and of two, as shares of the pairs, with the ceiling.
  function addPairs() {
    const figure = sl.figure(grid, {name: "compare_pairs", title: "Pairs of one class and of two",
      read: "How the likeness of pairs spreads." + (sl.run.study ? "" : " The dashed line is the ceiling: what runs would reach that used exactly the same heads, "
        + "given the noise of their scores."),
      not: `Pairs share ${many}, so they are not independent; the tests below take that into account.`,
      table: () => ({head: ["pairs", "mean", "number"],
        rows: series().map(one => [one.name, fixed(d3.mean(one.pairs), 3), one.pairs.length])})});
    const holder = el("div", {}), key = el("div", {});
    figure.body.append(holder, key);
    const series = () => {
      const groups = [[], []], split = classes.length > 1;
      for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) {
        if (!isNumber(like(i, j)) || (split && (classOf(i) < 0 || classOf(j) < 0))) continue;
        groups[split && classOf(i) === classOf(j) ? 0 : 1].push(like(i, j));
      }
      return [["one class", groups[0], 0], [split ? "two classes" : "all pairs", groups[1], 1]].filter(one => one[1].length).map(([name, pairs, s]) => ({name, pairs, style: sl.curve.styles[s]}));
    };
    const draw = () => {
      const all = series(), low = Math.min(0, d3.min(all, one => d3.min(one.pairs))), bins = 24, width = (1 - low) / bins,
        centres = d3.range(bins).map(b => low + (b + 0.5) * width);
      all.forEach(one => { one.values = centres.map((c, b) => one.pairs.filter(v => Math.min(bins - 1,
        Math.floor((v - low) / width)) === b).length / one.pairs.length); });
      holder.replaceChildren();
      const inner = el("div", {}), top = view.kind.told.ceiling ?? view.kind.told.split_half;
      holder.append(inner);
      sl.curve.curves(inner, all, {x: centres, height: 300, axis: view.kind.title,
        domain: [0, d3.max(all, one => d3.max(one.values)) * 1.08], format: percent,
        name: x => `${view.kind.title} about ${fixed(x, 2)}`, marks: isNumber(top) ? [{x: Math.min(top, centres[bins - 1]),
          label: `ceiling ${fixed(top, 2)}`}] : null, label: "Likeness of pairs of runs"});
      key.replaceChildren(sl.curve.key(all.map(one => ({...one, note: `${one.pairs.length} pairs`}))));
    };
    draw();
    redraw.push(draw);
  }

  function addTests() {
    const words = {class: ["Pairs of one class are more alike than pairs of two",
      "Pairs of one class are not clearly more alike than pairs of two"],
      appearance: ["Inside a class, pairs of one appearance are more alike",
        "Inside a class, pairs of one appearance are not clearly more alike"],
      semantics: ["What is shown matters more than how it is shown", "What is shown does not clearly matter more than how it is shown"]};
    const figure = sl.figure(section, {name: "compare_tests", title: "Is it more than chance?", wide: true, canvas: () => null,
      read: `Each line: the difference of two means with its 95 % interval (bootstrap over ${many}), and p, the share of random relabellings `
        + `of the ${many} that give as large a difference.`,
      not: "A small p says that there is a difference, not that it is large: compare it with the distance to the ceiling. A large p is "
        + "not proof of no difference.",
      table: () => ({head: ["question", "difference", "low", "high", "p", "effect"], rows: rows().map(([, name, t]) => [name,
        fixed(t.value, 3), fixed(t.low, 3), fixed(t.high, 3), number(t.p, 2), fixed(t.effect, 2)])})});
    figure.figure.querySelector(".tools").remove();
    const rows = () => {
      const told = view.kind.told, partial = told.partial || {};
      return [...["class", "appearance", "semantics"].map(key => [key, key, told[key]]), ["partial", "class, given how the pictures look",
        partial.class_given_visual],
        ["partial", "looks, given the class", partial.visual_given_class]].filter(row => row[2] && isNumber(row[2].value));
    };
    const body = el("ul", {class: "tests"});
    figure.body.append(body);
    const draw = () => {
      const list = rows(), most = Math.max(0.05, d3.max(list, row => Math.max(Math.abs(row[2].value), Math.abs(row[2].low ?? 0),
        Math.abs(row[2].high ?? 0))) || 0);
      const x = d3.scaleLinear().domain([-most, most]).range([6, 234]);
      body.replaceChildren(...(list.length ? list : []).map(([key, name, t]) => {
        const holder = el("span", {class: "interval", "aria-hidden": "true"}), svg = chart.attributes(d3.select(holder).append("svg"),
          {width: 240, height: 20});
        chart.line(svg, x(0), 0, x(0), 20, "stroke:var(--ink-3);stroke-width:1;stroke-dasharray:2 2");
        if (isNumber(t.low) && isNumber(t.high)) chart.line(svg, x(t.low), 10, x(t.high), 10, "stroke:var(--ink);stroke-width:1.8");
        chart.attributes(svg.append("circle"), {cx: x(t.value), cy: 10, r: 4, style: "fill:var(--ink)"});
        const clear = isNumber(t.p) && t.p < 0.05 && t.value > 0, verdict = words[key] ? (clear ? words[key][0] : words[key][1])
          : `Partial correlation of ${name}`;
        return el("li", {}, el("span", {}, verdict + "."), holder,
          el("b", {}, `${number(t.value)}${isNumber(t.p) ? `, p ${t.p < 0.001 ? "< 0.001" : "= " + number(t.p, 2)}` : ""}`));
      }));
      if (list.length === 0) body.append(el("li", {},
        `The labels leave nothing to compare: it takes two classes, with more than one ${noun} in one of them.`));
    };
    draw();
    redraw.push(draw);
  }

  // Mean scores of every class, on one scale each.
  function addClasses() {
    const score = tensor("compare.score");
    if (!score || classes.length === 0 || classes.length > 24) return;
    const [, nLayer, nHead] = score.shape, several = el("div", {class: "grid three"});
    section.append(el("h3", {class: "part"}, "Mean scores of each class"), several);
    classes.forEach((name, c) => {
      const members = d3.range(n).filter(i => classOf(i) === c), chosen = {at: [0, 0]}, value = (l, h) => d3.mean(members,
        i => score.at(i, l, h));
      if (members.length === 0) return;
      const figure = sl.figure(several, {name: `compare_class_${c}`,
        title: `${name}, ${members.length} ${members.length === 1 ? noun : many}`});
      const holder = el("div", {});
      figure.body.append(holder);
      const map = sl.squares.map(holder, {columns: nLayer, rows: nHead, value, rowName: "head", label: `Mean head scores of ${name}.`,
        selected: () => chosen.at,
        choose: (l, h) => { chosen.at = [l, h]; map.move(); }, lines: (l, h) => [`layer ${l}, head ${h}`,
          `mean score ${number(value(l, h))}`]});
      figure.body.append(sl.squares.legend(map.largest(), {plus: "raises the answer", minus: "lowers it"}));
    });
  }
});
