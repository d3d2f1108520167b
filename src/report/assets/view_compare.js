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
  const GLYPH = 7.2; // px of a letter in a drawing, rather too many than too few
  const noun = sl.run.study ? "example" : "run", many = noun + "s"; // a study's page compares a sample of its examples
  const who = i => label(i) + (runs[i].answer ? `: “${runs[i].answer}”` : "");
  const like = (i, j) => view.kind.values.at(i, j), redraw = [];
  const ceilingOf = kind => kind.told.ceiling ?? kind.told.split_half, hasCeiling = kinds.some(kind => isNumber(ceilingOf(kind)));
  // Colours begin at the least likeness there is, rounded down to tenths: from -1 on, all but unlike runs would be of one colour.
  const least = () => Math.max(view.kind.low, Math.min(0.9, Math.floor(d3.min(view.kind.values.values.filter(isNumber)) * 10) / 10));

  section.append(el("p", {class: "lead"},
    `Head scores of ${n} ${many}${said.of > n ? `, a sample of ${said.of},` : ","} compared pair by pair: do pictures of one kind reach the `
      + `answer through the same heads?${classWords()}`),
    el("div", {class: "controls"}, sl.radios("Likeness", "likeness", kinds.map((one, k) => ({value: k, label: one.title})), 0,
      k => { view.kind = kinds[k]; redraw.forEach(draw => draw()); sl.set({likeness: k}); })));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  addMatrix();
  addPairs();
  addTests();
  addClasses();
  return true;

  // Where the classes come from.
  function classWords() {
    if (classes.length === 0) return "";
    return sl.run.study ? ` Their class is the value of the label “${sl.study.labels[0]}”.`
      : " Class (what a picture shows) and appearance (how) are what the command calls them.";
  }

  // Which way noise goes: that of its own lowers likeness, that of the same masks raises it.
  function noiseWords() {
    const own = "Noise of its own in every score lowers the likeness";
    if (sl.run.study) return `${own}; but a study measures all examples under the same masks, so that part of their noise is alike and `
      + "raises it.";
    const seeds = (Array.isArray(sl.run.warnings) ? sl.run.warnings : []).some(text => /share a seed/.test(text));
    return own + (hasCeiling ? ": the ceiling in the next figure is what two fits of one and the same run reach." : ".")
      + (seeds ? " Runs of one seed were measured under the same masks, so that part of their noise is alike and raises it: the "
        + "warning below says of how many that is so here." : "");
  }

  function addMatrix() {
    let at = [0, 1], move = () => {};
    const figure = sl.figure(grid, {name: "compare_matrix", title: `How alike are two ${many}?`,
      read: `Rows and columns are the ${many}, numbered alike, ${classes.length > 1
        ? "class by class, alike ones side by side; white lines part the classes" : "alike ones side by side"}. Yellow is alike; the scale begins at the least value there is. Choose a cell with the pointer or the arrow keys. The table has `
        + (n <= 60 ? "all values." : `the ${noun} that is most like each.`),
      not: noiseWords(), table: matrixTable});
    const holder = el("div", {}), words = el("p", {class: "detail", id: "likeness-cell"}), key = matrixKey();
    figure.body.append(holder, words, key);
    const lines = (r, c) => [`${view.kind.title} ${fixed(like(order[r], order[c]), 3)}`, `row ${r + 1}, ${who(order[r])}`,
      `column ${c + 1}, ${who(order[c])}`];
    const tell = () => { words.textContent = lines(...at).join("; ") + "."; };
    const choose = (r, c) => { at = [r, c]; move(); tell(); };
    const draw = sl.responsive(holder, width => {
      const drawn = drawMatrix(holder, width, lines);
      key.hidden = drawn.named;
      move = () => drawn.frame(...at);
      move();
      drawn.follow(() => at, choose);
    });
    tell();
    redraw.push(draw, tell);
  }

  function matrixTable() {
    if (n <= 60) return {head: [noun, ...order.map((i, r) => r + 1)],
      rows: order.map((i, r) => [`${r + 1} · ${label(i)}`, ...order.map(j => fixed(like(i, j), 3))])};
    return {head: [noun, "most like", view.kind.title], rows: order.map((i, r) => {
      const best = d3.range(n).filter(j => j !== i).reduce((a, b) => like(i, b) > like(i, a) ? b : a);
      return [`${r + 1} · ${label(i)}`, `${order.indexOf(best) + 1} · ${label(best)}`, fixed(like(i, best), 3)];
    })};
  }

  // The names of the numbers, where the drawing has no room for them.
  function matrixKey() {
    return el("div", {class: "scroll", id: "likeness-key", tabindex: "0", role: "region", "aria-label": `Numbers of the ${many}`},
      el("p", {class: "caption", style: "margin:.3rem .6rem"}, order.map((i, r) => [r > 0 ? "; " : "", el("b", {}, `${r + 1}\u00a0`), label(i)])));
  }

  // Draws the matrix. named: the rows have their whole names; frame (r, c): marks a cell; follow: pointer and keys.
  function drawMatrix(holder, width, lines) {
    const widest = 28 + GLYPH * d3.max(order, i => label(i).length + String(n).length), room = Math.min(widest, width * 0.36);
    const named = (width - room) / n >= 13, left = named ? room : classes.length > 1 ? Math.min(150, width * 0.3) : 34;
    const top = 22, cell = Math.min(90, (width - left - 2) / n), side = cell * n, height = top + side + 42;
    const svg = chart.attributes(chart.svg(holder, width, height, ""), {id: "likeness-map", tabindex: 0, role: "application",
      "aria-roledescription": "map", "aria-label": `Likeness of ${n} ${many} by ${view.kind.title}. Arrow keys move.`});
    const floor = least();
    drawCells(svg, floor).attr("transform", `translate(${left},${top}) scale(${cell})`);
    const blocks = drawBlocks(svg, left, top, cell, side);
    numberCells(svg, left, top, cell, named ? room : 0);
    if (!named && classes.length > 1) nameBlocks(svg, blocks, left, top, cell);
    drawScale(svg, left, top + side + 12, floor);
    const frame = chart.attributes(svg.append("rect"), {"data-cursor": "", width: cell + 2, height: cell + 2, rx: 2,
      style: "fill:none;stroke:var(--focus);stroke-width:2.5;pointer-events:none"});
    const area = chart.attributes(svg.append("rect"), {"data-cells": "", x: left, y: top, width: side, height: side,
      style: "fill:transparent;cursor:pointer"});
    const inside = v => Math.min(n - 1, Math.max(0, v)), cellAt = () => {
      const [x, y] = d3.mouse(area.node());
      return [inside(Math.floor((y - top) / cell)), inside(Math.floor((x - left) / cell))];
    };
    area.on("mousemove", () => sl.tip.at(d3.event, lines(...cellAt()))).on("mouseleave", sl.tip.hide);
    return {named: named && room >= widest, frame: (r, c) => chart.attributes(frame, {x: left + c * cell - 1, y: top + r * cell - 1}),
      follow: (chosen, choose) => {
        area.on("click", () => choose(...cellAt()));
        svg.on("keydown", () => {
          const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[d3.event.key];
          if (!step) return;
          d3.event.preventDefault();
          choose(...chosen().map((v, k) => inside(v + step[k])));
          sl.say(lines(...chosen()).join(", "));
        });
      }};
  }

  // One path for every colour: few elements, however many cells.
  function drawCells(svg, floor) {
    const paths = new Map(), cells = svg.append("g").attr("shape-rendering", "crispEdges");
    order.forEach((i, r) => order.forEach((j, c) => {
      const value = like(i, j), colour = isNumber(value) ? sl.maps.colour((value - floor) / (1 - floor)) : "#999";
      paths.set(colour, (paths.get(colour) || "") + `M${c} ${r}h1v1h-1z`);
    }));
    for (const [colour, d] of paths) chart.attributes(cells.append("path"), {d, style: `fill:${colour}`});
    return cells;
  }

  // White lines between classes; the first and the last row of each class.
  function drawBlocks(svg, left, top, cell, side) {
    const starts = d3.range(n).filter(r => r === 0 || classOf(order[r]) !== classOf(order[r - 1]));
    for (const r of starts.slice(1)) {
      chart.line(svg, left + r * cell, top, left + r * cell, top + side, "stroke:#fff;stroke-width:2");
      chart.line(svg, left, top + r * cell, left + side, top + r * cell, "stroke:#fff;stroke-width:2");
    }
    return starts.map((r, b) => [r, (starts[b + 1] ?? n) - 1]);
  }

  function cut(text, room) {
    return text.length * GLYPH <= room ? text : text.slice(0, Math.max(1, Math.floor(room / GLYPH) - 1)) + "…";
  }

  // Numbers of rows and columns, as many as there is room for; the rows' names where there is.
  function numberCells(svg, left, top, cell, room) {
    const every = [1, 2, 5, 10, 20, 50, 100].find(step => step * cell >= 9 + 6 * String(n).length) || 200;
    d3.range(n).forEach(r => {
      const middle = (r + 0.5) * cell, name = `${r + 1} · ${label(order[r])}`, shown = every === 1 || r === 0 || (r + 1) % every === 0;
      if (shown) chart.text(svg, left + middle, top - 7, r + 1, {"text-anchor": "middle"});
      if (room || shown)
        chart.text(svg, left - 6, top + middle + 4, room ? cut(name, room - 6) : r + 1, {"text-anchor": "end"});
    });
  }

  function nameBlocks(svg, blocks, left, top, cell) {
    for (const [first, last] of blocks) {
      const name = classes[classOf(order[first])];
      if (name && (last - first + 1) * cell >= 12)
        chart.text(svg, 0, top + (first + last + 1) / 2 * cell + 4, cut(name, left - 40), {"font-weight": 600});
    }
  }

  function drawScale(svg, left, y, floor) {
    const ramp = chart.attributes(svg.append("defs").append("linearGradient"), {id: "likeness-ramp"});
    d3.range(0, 1.01, 0.1).forEach(share => chart.attributes(ramp.append("stop"), {offset: share, "stop-color": sl.maps.colour(share)}));
    chart.attributes(svg.append("rect"), {x: left + 36, y: y + 1, width: 110, height: 10, fill: "url(#likeness-ramp)"});
    chart.text(svg, left, y + 10, fixed(floor, 1));
    chart.text(svg, left + 152, y + 10, "1");
    chart.text(svg, left, y + 27, view.kind.title);
  }

  // Distributions of pairs of one class and of two, as shares of the pairs, with the ceiling.
  function addPairs() {
    const figure = sl.figure(grid, {name: "compare_pairs", title: classes.length > 1 ? "Pairs of one class and of two" : `Pairs of ${many}`,
      read: "How the likeness of pairs spreads." + (!hasCeiling ? "" : " The dashed line is the ceiling: what runs would reach that used exactly the same heads, "
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
      const inner = el("div", {}), top = ceilingOf(view.kind);
      holder.append(inner);
      sl.curve.curves(inner, all, {x: centres, height: 300, axis: `share of pairs, by ${view.kind.title}`,
        domain: [0, d3.max(all, one => d3.max(one.values)) * 1.08], format: percent,
        name: x => `${view.kind.title} about ${fixed(x, 2)}`, marks: isNumber(top) ? [{x: Math.min(top, centres[bins - 1]),
          label: `ceiling ${fixed(top, 2)}`}] : null, label: `Likeness of pairs of ${many}`});
      key.replaceChildren(sl.curve.key(all.map(one => ({...one, note: one.pairs.length === 1 ? "1 pair" : `${one.pairs.length} pairs`}))));
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
    const hasPartial = kinds.some(kind => kind.told.partial);
    const figure = sl.figure(section, {name: "compare_tests", title: "Is it more than chance?", wide: true, canvas: () => null,
      read: "Each line is the difference between the mean likeness of two kinds of pairs"
        + `${hasPartial ? ", the last ones are partial correlations over all pairs" : ""}: a point with its 95 % interval (bootstrap over ${many}), and p, `
        + `the share of random relabellings of the ${many} that give as large a value.`,
      not: `A small p says that there is a difference, not that it is large: compare it with ${hasCeiling ? "the distance to the ceiling"
        : "how far the likeness of pairs spreads"}. A large p is not proof of no difference.`,
      table: () => ({head: ["question", hasPartial ? "difference or correlation" : "difference", "low", "high", "p", "effect"],
        rows: rows().length === 0 ? [["nothing to compare", ...Array(5).fill(sl.dash)]] : rows().map(([, name, t]) => [name, fixed(t.value, 3), fixed(t.low, 3),
          fixed(t.high, 3), number(t.p, 2), fixed(t.effect, 2)])})});
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
        const none = isNumber(t.low) && isNumber(t.high) ? null : el("small", {}, ` No interval: too few ${many}.`);
        return el("li", {}, el("span", {}, verdict + ".", none), holder,
          el("b", {}, `${number(t.value)}${isNumber(t.p) ? `, p ${t.p < 0.001 ? "< 0.001" : "= " + number(t.p, 2)}` : ""}`));
      }));
      if (list.length > 0) body.append(scaleOf(x));
      if (list.length === 0) body.append(el("li", {},
        `The labels leave nothing to compare: it takes two classes, with more than one ${noun} in one of them.`));
    };
    draw();
    redraw.push(draw);
  }

  // The axis under the intervals.
  function scaleOf(x) {
    const holder = el("span", {class: "interval", "aria-hidden": "true"}),
      svg = chart.attributes(d3.select(holder).append("svg"), {width: 240, height: 24});
    chart.line(svg, x.range()[0], 4, x.range()[1], 4, "stroke:var(--ink-3);stroke-width:1");
    for (const tick of x.ticks(3)) {
      chart.line(svg, x(tick), 4, x(tick), 8, "stroke:var(--ink-3);stroke-width:1");
      chart.text(svg, x(tick), 20, number(tick), {"text-anchor": "middle"});
    }
    return el("li", {class: "axis"}, el("span", {class: "caption"}, "The dashed line is at 0: no difference, or no correlation."), holder, el("b", {}));
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
