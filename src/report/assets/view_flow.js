// Attention flow: shares of the classes over layers, heads, and where on the picture a head looks.
"use strict";

sl.view("flow", section => {
  const {el, facts, tensor, state, chart} = sl;
  const share = tensor("flow.share"), heads = tensor("flow.share_heads"), image = tensor("flow.image"), headMaps = tensor("flow.image_heads");
  const {classes, nLayer, nHead} = facts;
  const order = [1, 2, 3, 4, 0]; // the image at the bottom, where shares are easiest to compare
  const renormalised = ((sl.run.options || {}).flow || {}).renormalise === true;
  const wordOf = q => "“" + sl.word(facts.predicted(q)) + "”";

  const queries = sl.radios("Attention of the position that predicts", "query", d3.range(facts.nQuery).map(q => ({value: q, label: sl.word(facts.predicted(q))})),
    state.query, query => sl.set({query}));
  const queryField = facts.nQuery <= 8 ? queries : sl.select("Attention of the position that predicts",
    d3.range(facts.nQuery).map(q => ({value: q, label: `${q}: ${sl.word(facts.predicted(q))}`})), state.query, query => sl.set({query}));
  sl.on("query", () => { if (facts.nQuery <= 8) sl.choose(queries, state.query); else queryField.querySelector("select").value = state.query; });
  section.append(el("p", {class: "lead"}, (renormalised
    ? "At every layer, the position that is about to write the next token spreads its attention over itself and everything before it. This run was made with --renormalise: what goes to the prompt counts as 100 %, and the answer so far is left out. "
    : "At every layer, the position that is about to write the next token spreads 100 % of its attention over itself and everything before it. ")
    + "These figures show how much goes to which class of tokens, averaged over heads and head by head."),
    el("div", {class: "controls"}, queryField));
  // Which position a figure is about stands in it, for print and for saved files that travel alone.
  const captions = [], whose = () => `Of the position that predicts ${wordOf(state.query)}.`;
  const captioned = figure => {
    const caption = el("p", {class: "caption"}, whose());
    figure.figure.insertBefore(caption, figure.body);
    captions.push(caption);
    return figure;
  };
  sl.on("query", () => captions.forEach(caption => { caption.textContent = whose(); }));
  const grid = el("div", {class: "grid two"});
  section.append(grid);
  const left = el("div", {}), right = el("div", {});
  grid.append(left, right);
  grid.classList.add("columns");

  // Stacked shares.
  const stackTable = () => ({head: ["layer", ...classes.map(one => one.name), ...(tensor("flow.sinks") ? [`most attended position${facts.nQuery > 1 ? " (first answer token)" : ""}`] : [])],
    rows: d3.range(nLayer).map(il => [il, ...classes.map((one, c) => sl.percent(share.at(il, state.query, c))), ...sinkCell(il)])});
  const sinkCell = il => {
    const sinks = tensor("flow.sinks"), weights = tensor("flow.sink_share");
    if (!sinks) return [];
    const position = sinks.at(il, 0);
    return [`${position} ${sl.visible(facts.text(facts.tokens[position]))}${weights ? " " + sl.percent(weights.at(il, 0)) : ""}`];
  };
  const stack = captioned(sl.figure(left, {name: "flow_share", title: "Attention by class of token", table: stackTable,
    read: "One column per layer, always 100 %. The solid part at the bottom is the image. The dashed line marks the attention cliff: the first layer from which the image share of the first answer token stays under the limit.",
    not: "A small share can still matter, because what a token carries may be large; and much attention may rest on a token that carries nothing (an attention sink, often the first token of the system prompt)."}));
  let moveStack = () => {};
  const drawStack = sl.responsive(stack.body, width => {
    const margin = {left: 46, right: width < 420 ? 92 : 104, top: 24, bottom: 38}, height = 300;
    const svg = chart.svg(stack.body, width, height, `Share of attention by class over ${nLayer} layers, for the position that predicts ${wordOf(state.query)}`);
    const fill = chart.patterns(svg), x = chart.layers(margin.left, width - margin.right), y = d3.scaleLinear().range([height - margin.bottom, margin.top]);
    chart.valueAxis(svg, y, margin.left, width - margin.right, [0, 0.25, 0.5, 0.75, 1], sl.percent);
    const ends = [];
    for (let il = 0; il < nLayer; il++) {
      let low = 0;
      for (const c of order) {
        const value = share.at(il, state.query, c);
        if (value > 0) chart.attributes(svg.append("rect"), {x: x(il), width: x.bandwidth(), y: y(low + value), height: Math.max(0, y(low) - y(low + value)),
          style: fill(classes[c].key) + ";stroke:var(--surface);stroke-width:0.75"});
        if (il === nLayer - 1) ends.push({c, at: y(low + value / 2), value});
        low += value;
      }
    }
    labelEnds(svg, ends.filter(end => end.value > 0), width - margin.right, margin.top, height - margin.bottom);
    chart.marker(svg, x, margin.top - 6, height - margin.bottom, facts.attentionCliff, "attention cliff");
    chart.layerAxis(svg, x, height - margin.bottom);
    chart.columns(svg, x, margin.top, height - margin.bottom, il => ["layer " + il, ...order.map(c => `${classes[c].name}: ${sl.percent(share.at(il, state.query, c))}`)]);
    moveStack = chart.cursor(svg, x, margin.top, height - margin.bottom);
  });
  // Names beside the last column, pushed apart where they would overlap.
  function labelEnds(svg, ends, x, top, bottom) {
    ends.sort((a, b) => b.at - a.at);
    let floor = bottom;
    for (const end of ends) { end.y = Math.min(end.at, floor); floor = end.y - 14; }
    for (const end of ends) {
      chart.line(svg, x + 1, end.at, x + 9, end.y, "stroke:var(--ink-3);stroke-width:1");
      chart.text(svg, x + 12, end.y + 4, `${classes[end.c].short} ${sl.percent(end.value)}`, {"font-size": 11, style: "fill:var(--ink)"});
    }
  }
  sl.on("query", drawStack);
  sl.on("layer", () => moveStack());

  // The image's share alone, on a scale where two per cent can be seen.
  const imageShare = {name: "image", values: [], colour: "--c-image", shape: "circle"};
  const fillImage = () => { imageShare.values = d3.range(nLayer).map(il => share.at(il, state.query, 1)); };
  fillImage();
  // One axis for all positions, so that they can be compared.
  const every = d3.range(nLayer).flatMap(il => d3.range(facts.nQuery).map(q => share.at(il, q, 1)));
  const floor = every.reduce((least, value) => value > 0 ? Math.min(least, value) : least, 0.005);
  const low = Math.pow(10, Math.floor(Math.log10(Math.max(1e-6, floor))));
  const alone = captioned(sl.figure(left, {name: "flow_image_share", title: "The image’s share alone",
    read: "The same numbers as the bottom part above, on a logarithmic scale: each step down is ten times less.",
    table: () => ({head: ["layer", "image share"], rows: d3.range(nLayer).map(il => [il, sl.percent(share.at(il, state.query, 1))])})}));
  const drawAlone = chart.lines(alone.body, [imageShare], {height: 216, scale: "log", domain: [low, 1], ticks: d3.range(Math.round(Math.log10(low)), 1).map(p => Math.pow(10, p)),
    format: sl.percent, tickFormat: sl.percentTick, label: "Share of attention on the image over layers, logarithmic", baseline: {value: facts.cliffShare, label: `limit of the cliff, ${sl.percent(facts.cliffShare)}`}, plainTop: true});
  sl.on("query", () => { fillImage(); drawAlone(); });

  if (heads) addHeads();

  function addHeads() {
    const used = d3.range(classes.length).filter(c => d3.max(d3.range(nLayer), il => d3.max(d3.range(facts.nQuery), q => share.at(il, q, c))) > 0);
    const kinds = sl.select("Attention on", used.map(c => ({value: c, label: classes[c].name})), state.kind, kind => sl.set({kind}));
    const value = (il, h) => heads.at(il, h, state.query, state.kind);
    const figure = captioned(sl.figure(right, {name: "flow_heads", title: "Head by head",
      read: "One cell per layer and head; the scale is square-root, so that small shares differ visibly. Rings mark the five heads with the largest share. Click a cell, or move with the arrow keys, to see where that head looks.",
      not: "Attention says where a head reads, not whether the answer needed it: heads can stand in for one another.",
      table: () => ({head: ["layer", ...d3.range(nHead).map(h => "head " + h)], rows: d3.range(nLayer).map(il => [il, ...d3.range(nHead).map(h => sl.percent(value(il, h)))])})}));
    const holder = el("div", {}), legend = el("div", {class: "legend"});
    figure.body.append(el("div", {class: "controls"}, kinds), holder, legend);
    let moveCell = () => {};
    const draw = sl.responsive(holder, width => {
      const margin = {left: 46, right: 6, top: 20, bottom: 38}, x = chart.layers(margin.left, width - margin.right);
      x.paddingInner(0.06);
      const cell = Math.max(6, Math.min(26, x.step())), height = margin.top + nHead * cell + margin.bottom;
      const svg = chart.svg(holder, width, height, "");
      chart.attributes(svg, {tabindex: 0, role: "application", "aria-roledescription": "map",
        "aria-label": `Map of heads: share of attention on ${classes[state.kind].name}. Arrow keys move.`});
      const largest = Math.max(1e-9, d3.max(d3.range(nLayer * nHead), i => value(Math.floor(i / nHead), i % nHead)));
      const ranked = d3.range(nLayer * nHead).sort((a, b) => value(Math.floor(b / nHead), b % nHead) - value(Math.floor(a / nHead), a % nHead)).slice(0, 5);
      const yOf = h => margin.top + h * cell;
      for (let il = 0; il < nLayer; il++) {
        for (let h = 0; h < nHead; h++) {
          chart.attributes(svg.append("rect"), {"data-cell": `${il},${h}`, x: x(il), y: yOf(h), width: x.bandwidth(), height: cell - (cell > 9 ? 1.2 : 0.5),
            style: `fill:${sl.maps.colour(Math.sqrt(value(il, h) / largest))};cursor:pointer`})
            .on("mousemove", () => sl.tip.at(d3.event, [`layer ${il}, head ${h}`, `${classes[state.kind].name}: ${sl.percent(value(il, h))}`]))
            .on("mouseleave", sl.tip.hide).on("click", () => sl.set({layer: il, head: h}));
        }
      }
      for (const i of ranked) {
        const il = Math.floor(i / nHead), h = i % nHead, r = Math.min(x.bandwidth(), cell) * 0.26;
        for (const [colour, size] of [["#000", 2.4], ["#fff", 1.1]]) chart.attributes(svg.append("circle"), {cx: x(il) + x.bandwidth() / 2, cy: yOf(h) + cell / 2 - 0.5, r,
          style: `fill:none;stroke:${colour};stroke-width:${size};pointer-events:none`});
      }
      const every = Math.max(1, Math.ceil(14 / cell));
      for (let h = 0; h < nHead; h += every) chart.text(svg, margin.left - 7, yOf(h) + cell / 2 + 4, h, {"text-anchor": "end"});
      chart.text(svg, margin.left - 7, margin.top - 7, "head", {"text-anchor": "end"});
      chart.marker(svg, x, margin.top - 7, margin.top + nHead * cell, facts.attentionCliff, "attention cliff");
      chart.layerAxis(svg, x, margin.top + nHead * cell);
      const frame = chart.attributes(svg.append("rect"), {"data-cursor": "", rx: 2, style: "fill:none;stroke:var(--focus);stroke-width:2.5;pointer-events:none"});
      moveCell = () => chart.attributes(frame, {x: x(state.layer) - 2, y: yOf(state.head) - 2, width: x.bandwidth() + 4, height: cell + 3});
      moveCell();
      svg.on("keydown", () => {
        const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[d3.event.key];
        if (!step) return;
        d3.event.preventDefault();
        const layer = Math.min(nLayer - 1, Math.max(0, state.layer + step[0])), head = Math.min(nHead - 1, Math.max(0, state.head + step[1]));
        sl.set({layer, head});
        sl.say(`layer ${layer}, head ${head}: ${sl.percent(value(layer, head))}`);
      });
      legend.replaceChildren(el("span", {}, "0"), el("span", {class: "ramp", style: `background:${sl.maps.gradient()}`, role: "img", "aria-label": "colour scale, square root"}), el("span", {}, sl.percent(largest)));
    });
    sl.on("query kind", draw);
    sl.on("layer head", () => moveCell());
    if (image || headMaps) addHeadPicture();
  }

  function addHeadPicture() {
    const canvas = sl.maps.canvas(420, {role: "img", id: "head-picture"}), words = el("div", {class: "readout"});
    const figure = sl.figure(nHead > 16 ? left : right, {name: "flow_head_picture", title: "Where the chosen head looks", canvas: () => canvas});
    figure.body.append(sl.maps.viewSwitch() ?? "", el("div", {class: "beside"}, canvas, words));
    const draw = () => {
      const {layer, head, query} = state, own = headMaps && query === 0;
      const row = own ? headMaps.at(layer, head) : image ? image.at(layer, query) : null;
      if (!row) return;
      const patches = sl.maps.shown(row.length), maximum = sl.maps.top(row), sum = d3.sum(patches, i => row[i]), n = sl.maps.cells(row.length);
      sl.maps.paint(canvas, row, {maximum, strength: 0.75, outline: true});
      const what = own ? `layer ${layer}, head ${head}` : `layer ${layer}, mean over heads`;
      canvas.setAttribute("aria-label", `Attention on the picture, ${what}`);
      words.replaceChildren(el("p", {class: "strong"}, own ? `Layer ${layer} · head ${head}` : `Layer ${layer} · mean of all heads`),
        el("p", {}, `${sl.percent(sum)} of its attention${renormalised ? ", not renormalised," : ""} is on the image. Yellow is this map’s own maximum, ${sl.percent(maximum)} on one ${sl.maps.projected(row.length) ? "patch" : "token"}; evenly spread it would be ${sl.percent(sum / n)} on each of ${n}.`),
        sl.maps.sheets.length > 1 ? el("p", {}, `That is ${sl.maps.sheetSums(row).map(([name, part]) => `${sl.percent(part)} on ${name}`).join(", ")}.`) : "",
        el("p", {class: "caption"}, headMaps ? (own ? "" : `Single heads are stored for the first answer token only, ${wordOf(0)}.`) : "This run stored no maps of single heads."),
        sl.maps.placed(row.length) ? "" : el("p", {class: "caption"}, sl.maps.placeNote(row.length)));
    };
    draw();
    sl.on("layer head query sheet", draw);
  }
  return true;
});
