// LLaVA-CAM: one map per layer as a film strip, one of them large, beside or mixed with the attention of its layer.
"use strict";

sl.view("cam", section => {
  const {el, facts, tensor, state} = sl, heat = tensor("cam.heat"), attention = tensor("flow.image"), mass = tensor("cam.mass");
  const {nLayer} = facts, view = {show: attention ? "both" : "cam", strength: 0.75, mix: 0.5, scale: "own", smooth: true, outline: sl.maps.hasMask()};
  const camRow = il => heat.at(il, state.map);
  const attentionRow = il => attention ? attention.at(il, facts.queryOfMap(state.map)) : null;
  const overall = row => d3.max(d3.range(nLayer), il => sl.maps.top(row(il)));
  const maximum = (row, il) => view.scale === "own" ? sl.maps.top(row(il)) : overall(row);
  const normalised = (row, il) => { const top = maximum(row, il); return Float32Array.from(row(il), value => top > 0 ? value / top : 0); };
  const mixed = il => {
    const a = normalised(camRow, il), b = normalised(attentionRow, il);
    return a.map((value, i) => value * (1 - view.mix) + b[i] * view.mix);
  };

  section.append(el("p", {class: "lead"}, "LLaVA-CAM asks, layer by layer, which image tokens’ features would raise the answer’s ",
    String(facts.cam.target ?? "logit"), " if they were stronger: features times the gradient of the answer, summed over channels, negative parts cut off.",
    facts.cam.site ? el("span", {class: "caption"}, ` Taken at: ${facts.cam.site}.`) : ""));

  // Controls.
  const controls = el("div", {class: "controls"});
  const mapField = facts.nMap <= 6
    ? sl.radios("Map of", "map", d3.range(facts.nMap).map(i => ({value: i, label: facts.mapIsSum(i) ? "whole answer" : sl.word(facts.maps[i])})), state.map, map => sl.set({map}))
    : sl.select("Map of", d3.range(facts.nMap).map(i => ({value: i, label: facts.mapName(i)})), state.map, map => sl.set({map}));
  if (facts.nMap > 1) controls.append(mapField);
  const change = key => value => { view[key] = value; draw(); };
  if (attention) controls.append(sl.radios("Show", "show", [{value: "cam", label: "CAM"}, {value: "attention", label: "attention"}, {value: "both", label: "side by side"}, {value: "mix", label: "mix"}], view.show, change("show")));
  controls.append(sl.radios("Colour scale", "scale", [{value: "own", label: "each layer’s own"}, {value: "all", label: "one for all layers"}], view.scale, value => { view.scale = value; draw(); drawFilm(); }));
  const strength = sl.slider("Overlay strength", 0, 1, 0.05, view.strength, change("strength"));
  const mix = sl.slider("Share of attention in the mix", 0, 1, 0.05, view.mix, change("mix"));
  const check = (label, key) => {
    const input = el("input", {type: "checkbox", onchange: () => { view[key] = input.checked; draw(); drawFilm(); }});
    input.checked = view[key];
    return el("label", {class: "check"}, input, label);
  };
  controls.append(strength.field, mix.field, el("span", {class: "checks"}, check("smooth", "smooth"), sl.maps.hasMask() ? check("outline of the object", "outline") : null));
  const views = sl.maps.viewSwitch();
  if (views) controls.append(views);
  section.append(controls);
  if (!sl.maps.drawn(heat.shape.slice(2).reduce((a, b) => a * b, 1))) controls.querySelectorAll(".slider, .checks").forEach(field => { field.classList.add("unused"); });

  // The large map or maps.
  const stage = sl.figure(section, {name: "cam_layer", title: "One layer", wide: true, canvas: () => joined(),
    read: "Yellow image tokens count most for this layer’s map, dark violet least. With “each layer’s own” scale every map reaches yellow, however weak it is: the number beside it says how strong.",
    not: "A gradient says what a small change would do. It is blind to effects that saturate, and evidence against the answer was cut off at zero."});
  const camCanvas = sl.maps.canvas(480, {role: "img", id: "cam-canvas"}), attentionCanvas = sl.maps.canvas(480, {role: "img", id: "attention-canvas"});
  const camPlate = el("div", {class: "plate"}, camCanvas, el("p", {class: "caption"})), attentionPlate = el("div", {class: "plate"}, attentionCanvas, el("p", {class: "caption"}));
  const words = el("div", {class: "readout"});
  const layer = sl.slider("Layer", 0, nLayer - 1, 1, state.layer, value => sl.set({layer: value}));
  layer.input.id = "layer-slider";
  const joined = () => {
    const shown = [camPlate, attentionPlate].filter(plate => !plate.hidden).map(plate => plate.querySelector("canvas"));
    const out = el("canvas", {width: d3.sum(shown, canvas => canvas.width) + 12 * (shown.length - 1), height: shown[0].height}), context = out.getContext("2d");
    let x = 0;
    for (const canvas of shown) { context.drawImage(canvas, x, 0); x += canvas.width + 12; }
    return out;
  };
  layer.field.classList.add("long");
  stage.body.append(el("div", {class: "stage"}, camPlate, attentionPlate, words), layer.field,
    el("div", {class: "legend"}, el("span", {}, "0"), el("span", {class: "ramp", style: `background:${sl.maps.gradient()}`, role: "img", "aria-label": "colour scale"}), el("span", {}, "maximum")));

  const placeNote = sl.maps.placeNote(heat.shape.slice(2).reduce((a, b) => a * b, 1));
  if (placeNote) stage.body.append(el("p", {class: "caption"}, placeNote));

  function draw() {
    const il = state.layer, defined = facts.isDefined(il), {show} = view;
    const options = {strength: view.strength, smooth: view.smooth, outline: view.outline};
    camPlate.hidden = show === "attention";
    attentionPlate.hidden = !attention || show === "cam" || show === "mix";
    mix.field.hidden = show !== "mix";
    strength.output.textContent = sl.percent(view.strength);
    mix.output.textContent = sl.percent(view.mix);
    layer.input.value = il;
    layer.output.textContent = `${il} / ${nLayer - 1}`;
    layer.input.setAttribute("aria-valuetext", `layer ${il}${defined ? "" : ", CAM undefined"}`);
    if (!camPlate.hidden) {
      if (show === "mix" && defined) sl.maps.paint(camCanvas, mixed(il), {...options, maximum: 1});
      else sl.maps.paint(camCanvas, camRow(il), {...options, maximum: maximum(camRow, il), hatch: !defined});
    }
    if (!attentionPlate.hidden) sl.maps.paint(attentionCanvas, attentionRow(il), {...options, maximum: maximum(attentionRow, il)});
    const title = show === "mix" ? "CAM and attention mixed" : "CAM";
    const where = sl.maps.sheetName() ? `, ${sl.maps.sheetName()}` : "";
    camPlate.lastChild.textContent = defined ? `${title}, ${facts.mapName(state.map)}${where}` : `CAM undefined in layer ${il}`;
    camCanvas.setAttribute("aria-label", `${camPlate.lastChild.textContent}, layer ${il}`);
    attentionPlate.lastChild.textContent = attention ? `Attention of the position that predicts “${sl.word(facts.predicted(facts.queryOfMap(state.map)))}”${where}` : "";
    attentionCanvas.setAttribute("aria-label", `${attentionPlate.lastChild.textContent}, layer ${il}`);
    readout(il, defined);
  }

  function readout(il, defined) {
    const cam = tensor("cam.stats"), rho = tensor("cam.flow_correlation"), first = state.map === 0;
    const sum = d3.sum(camRow(il)), entries = [["sum of the map", sl.number(sum)]];
    if (first && mass) entries.push(["of the strongest layer’s", sl.percent(mass.values[il] / d3.max(mass.values))]);
    if (first && cam) entries.push(["entropy, nats", sl.number(cam.at(il, 0))], ["weight on the top 10 % of tokens", sl.percent(cam.at(il, 1))], ["weight on the object", sl.percent(cam.at(il, 2))]);
    if (sum > 0) for (const [name, part] of sl.maps.sheetSums(camRow(il))) entries.push([`of the sum, on ${name}`, sl.percent(part / sum)]);
    if (first && rho) entries.push(["rank correlation with attention", sl.fixed(rho.values[il], 2)]);
    words.replaceChildren(el("p", {class: "strong"}, `Layer ${il}`), ...(defined ? [
      el("dl", {}, entries.filter(entry => entry[1] !== sl.dash).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      sl.maps.unseen(camRow(il)) > 0 ? el("p", {class: "caption"}, `${sl.percent(sl.maps.unseen(camRow(il)))} of the map’s sum is on tokens that show no part of the picture, such as a class token or the end of a row.`) : "",
      sum > 0 ? "" : el("p", {}, "The map is empty: no image token’s features would raise the target.")]
      : [el("p", {}, "There is no map here, which is not the same as an empty one: ", facts.reason, ".")]));
  }

  // The film strip.
  const film = el("div", {class: "film", role: "radiogroup", "aria-label": "CAM of all layers"});
  const strip = sl.figure(section, {name: "cam_film", title: "All layers", wide: true, canvas: () => sheet(),
    read: "The same map for every layer. The bar under a frame is the sum of its map, as a share of the strongest layer’s. Choose a frame with the pointer or the arrow keys.",
    not: d3.range(nLayer).every(facts.isDefined) ? null : "Hatched frames are undefined, not empty: " + facts.reason + ".",
    table: () => ({head: ["layer", "defined", "sum of the map", "largest value"], rows: d3.range(nLayer).map(il => [il, facts.isDefined(il) ? "yes" : "no", facts.isDefined(il) ? sl.number(d3.sum(camRow(il))) : sl.dash, facts.isDefined(il) ? sl.number(sl.maps.top(camRow(il))) : sl.dash])})});
  const frames = d3.range(nLayer).map(il => {
    const canvas = sl.maps.canvas(200, {"aria-hidden": "true"}), bar = el("span", {class: "bar-in"});
    const notes = [il === facts.camCliff ? "CAM cliff" : null, il === facts.attentionCliff ? "attention cliff" : null].filter(note => note);
    const frame = el("button", {type: "button", role: "radio", "data-layer": il, class: "frame" + (facts.isDefined(il) ? "" : " undefined") + (notes.length ? " cliff" : "")},
      canvas, el("span", {class: "bar-out"}, bar), el("span", {class: "name"}, String(il), facts.isDefined(il) ? "" : el("i", {}, "undefined"), notes.map(note => el("i", {}, note))));
    frame.addEventListener("click", () => sl.set({layer: il}));
    return {frame, canvas, bar};
  });
  film.append(...frames.map(one => one.frame));
  strip.body.append(film);
  // Rows of equal length: as few rows as fit, then as few columns as fill them.
  sl.responsive(strip.body, width => {
    const most = Math.max(1, Math.floor((width + 10) / (width < 480 ? 78 : 92))), rows = Math.ceil(nLayer / most);
    film.style.gridTemplateColumns = `repeat(${Math.ceil(nLayer / rows)}, minmax(0, 11rem))`;
  });
  film.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -nLayer, End: nLayer}[event.key];
    if (!step) return;
    event.preventDefault();
    sl.set({layer: Math.min(nLayer - 1, Math.max(0, state.layer + step))});
    frames[state.layer].frame.focus();
  });
  function drawFilm() {
    const sums = d3.range(nLayer).map(il => facts.isDefined(il) ? d3.sum(camRow(il)) : 0), most = d3.max(sums);
    frames.forEach((one, il) => {
      sl.maps.paint(one.canvas, camRow(il), {maximum: maximum(camRow, il), strength: 0.75, smooth: view.smooth, hatch: !facts.isDefined(il)});
      one.bar.style.width = (most > 0 ? sums[il] / most * 100 : 0).toFixed(1) + "%";
      one.frame.setAttribute("aria-label", `Layer ${il}, ${facts.isDefined(il) ? "sum " + sl.number(sums[il]) : "undefined"}`);
    });
  }
  function markFrame() {
    frames.forEach((one, il) => {
      one.frame.setAttribute("aria-checked", String(il === state.layer));
      one.frame.tabIndex = il === state.layer ? 0 : -1;
    });
  }
  function sheet() {
    const [w, h] = [frames[0].canvas.width, frames[0].canvas.height], columns = Math.min(8, nLayer), rows = Math.ceil(nLayer / columns);
    const out = el("canvas", {width: columns * (w + 8) + 8, height: rows * (h + 26) + 8}), context = out.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, out.width, out.height);
    context.fillStyle = "#222";
    context.font = "13px system-ui, sans-serif";
    frames.forEach((one, il) => {
      const x = 8 + il % columns * (w + 8), y = 8 + Math.floor(il / columns) * (h + 26);
      context.drawImage(one.canvas, x, y);
      context.fillText(`layer ${il}${facts.isDefined(il) ? "" : " (undefined)"}`, x, y + h + 15);
    });
    return out;
  }
  draw();
  drawFilm();
  markFrame();
  sl.on("layer", () => { draw(); markFrame(); });
  sl.on("sheet", () => { draw(); drawFilm(); });
  sl.on("map", () => {
    if (facts.nMap <= 6) sl.choose(mapField, state.map); else mapField.querySelector("select").value = state.map;
    draw();
    drawFilm();
    if (facts.nQuery > 0) sl.set({query: facts.queryOfMap(state.map)});
  });
  // Choosing an answer token chooses its map too, where there is one.
  sl.on("query", () => {
    const own = state.query + (facts.mapIsSum(0) ? 1 : 0);
    if (facts.queryOfMap(state.map) !== state.query && own < facts.nMap) sl.set({map: own});
  });

  const vision = tensor("cam.vision");
  if (vision) addTower();
  function addTower() {
    const canvas = sl.maps.canvas(300, {role: "img", "aria-label": "CAM in the vision tower"}), note = el("p", {class: "strong"});
    const figure = sl.figure(section, {name: "cam_vision", title: "Before the language model", canvas: () => canvas});
    figure.body.append(el("div", {class: "beside"}, canvas, el("div", {class: "readout"}, note, el("p", {}, "The same map at the vision tower’s last kept layer: what the tower’s features contribute before the language model reads them."))));
    const bars = vision.shape.length === 4; // patches of several views: their boxes are not stored
    if (bars) figure.body.append(el("p", {}, `One bar per patch, in order, of ${vision.shape[1]} views with ${vision.shape[2]} × ${vision.shape[3]} patches each.`));
    const drawTower = () => { const row = vision.at(state.map), ofPatches = true; note.textContent = sl.maps.top(row, ofPatches) > 0 ? "" : "The map is empty: no patch’s features would raise the target."; sl.maps.paint(canvas, row, {maximum: sl.maps.top(row, ofPatches), strength: 0.75, outline: view.outline, ofPatches, bars}); };
    drawTower();
    sl.on("map sheet", drawTower);
  }
  return true;
});
