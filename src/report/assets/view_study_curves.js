// Mean curves over layers with intervals over examples: attention on the image, strength and spread of attention and CAM.
"use strict";

sl.view("curves", section => {
  const {el, facts, percent, number, fixed, isNumber} = sl, {said, series, curveOf, control, follow} = sl.study;
  const nLayer = sl.run.model.n_layer, xs = d3.range(nLayer), has = name => (said.curves[name] || []).length > 0;
  const kinds = [{key: "flow", name: "attention", style: sl.curve.styles[0]}, {key: "cam", name: "CAM",
    style: {...sl.curve.styles[1], colour: "--s-cam"}}]
    .filter(kind => ["entropy", "top_share", "object_share", "pointing"].some(name => has(`${kind.key}.${name}`)));
  if (!nLayer || Object.keys(said.curves).length === 0) return false;

  section.append(el("p", {class: "lead"},
    "Means over examples for every layer; bands are their 95 % intervals (Student’s t, or Wilson’s where an example is a yes or a "
      + "no; cut at what the number can be). Attention is that of the position that predicts the answer’s first token."),
    control() || "");
  let kind = kinds[0];
  const first = el("div", {class: "grid two"}), second = el("div", {class: "grid two"}), redraw = [];
  section.append(first);

  // what: the title of the value axis
  const measure = (parent, {name, title, what, read, not, make, domain, format = percent, ticks, levels}) => {
    const figure = sl.figure(parent, {name, title, read, not, table: () => {
      const list = make();
      return {head: ["layer", ...list.flatMap(one => [one.name, "low", "high"])], rows: xs.map(il => [il,
        ...list.flatMap(one => [one.values[il], one.low[il], one.high[il]].map(value => format(value)))])};
    }});
    const key = el("div", {}), draw = inner => {
      const list = make(), shown = list.flatMap(one => [...one.values, ...one.low, ...one.high]).filter(isNumber);
      key.replaceChildren(list.length ? sl.curve.key(list) : el("p", {class: "caption"},
        "Nothing to draw for this choice."));
      if (list.length === 0) return;
      const high = Math.max(d3.max(shown), ...(levels || []).map(level => level.value));
      sl.curve.curves(inner, list, {x: xs, height: 250, axis: `${what}, by layer (0 = first)`, domain: domain || [0, high * 1.06
        || 1], format, ticks, levels, label: `${title}, by layer`, name: il => `layer ${il}`});
    };
    const holder = el("div", {});
    figure.body.append(holder);
    figure.body.after(key);
    follow(holder, draw);
    redraw.push(() => { const inner = el("div", {}); holder.replaceChildren(inner); draw(inner); });
  };

  if (has("flow.image_share")) measure(first, {name: "mean_image_share", title: "Attention on the image",
    what: "share of attention", make: () => series("flow.image_share"),
    read: "Share of the attention that lies on image tokens, mean over heads.",
      not: "Attention says where a position reads, not what it makes of it."});
  if (has("flow.share.user")) measure(first, {name: "mean_shares", title: "Attention on everything", domain: [0, 1],
    what: "share of attention", ticks: [0, 0.25, 0.5, 0.75, 1],
    make: () => [["image", "flow.image_share", 1], ["system", "flow.share.system", 4], ["user", "flow.share.user", 3],
      ["generated", "flow.share.generated", 2],
      ["structure", "flow.share.structure", 5]].flatMap(([key, name, s]) => (said.curves[name]
        || []).filter(one => one.group === 0 && d3.max(one.mean) > 0.0005).map(one => ({
      name: facts.classes.find(c => c.key === key).name, style: {...sl.curve.styles[s], colour: key === "system"
        ? "--ink-3" : `--c-${key}`}, ...curveOf(name, one)}))),
    read: "All examples: what share goes to the parts of the prompt."});
  if (has("cam.mass_share")) measure(first, {name: "mean_cam_mass", title: "How strong is the CAM?",
    what: "share of the strongest layer’s", make: () => series("cam.mass_share"), domain: [0, 1.02], ticks: [0, 0.25, 0.5, 0.75, 1],
    read: "Sum of a layer’s map as a share of the strongest layer’s, in every example; then the mean.",
      not: "Where a map is weak, its shape says little."});
  if (has("cam.flow_correlation")) measure(first, {name: "mean_agreement", title: "Do attention and CAM agree?",
    what: "Spearman’s ρ", make: () => series("cam.flow_correlation"), domain: [-1, 1],
    ticks: [-1, -0.5, 0, 0.5, 1], format: value => fixed(value, 2), levels: [{value: 0}],
      read: "Spearman’s ρ over image tokens: 1 the same order of tokens, 0 unrelated, −1 reversed.",
    not: "Agreement does not make either map right."});
  if (kinds.length === 0) return true;

  section.append(el("h3", {class: "part"}, "Does it settle on something?"));
  const choose = kinds.length > 1 ? el("div", {class: "controls"}, sl.radios("Maps, where curves are split",
    "study-map", kinds.map((one, i) => ({value: i, label: one.name})), 0,
    i => { kind = kinds[i]; redraw.forEach(draw => draw()); sl.set({studyMap: i}); })) : null;
  const hide = () => { if (choose) choose.hidden = sl.state.split < 0; };
  hide();
  sl.on("split", hide);
  section.append(choose || "", second);
  // Not split: attention beside CAM. Split: the groups of one of them.
  const both = name => () => sl.state.split < 0 ? kinds.flatMap(one => series(`${one.key}.${name}`,
    () => ({name: one.name, style: one.style}))) : series(`${kind.key}.${name}`);
  const any = name => kinds.some(one => has(`${one.key}.${name}`)
    && said.curves[`${one.key}.${name}`].some(curve => curve.mean.some(isNumber)));
  if (any("entropy")) measure(second, {name: "mean_entropy", title: "Entropy over image tokens",
    what: "nats", make: both("entropy"),
    format: number, read: "In nats. Lower is narrower.",
    not: "Narrow is not right: a single meaningless token can hold all the weight."});
  if (any("top_share")) measure(second, {name: "mean_top10", title: "Weight on the top 10 % of image tokens",
    what: "share of the map", make: both("top_share"), domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1],
    levels: [{value: 0.1}],
      read: "100 % would mean that a tenth of the tokens holds everything; the dotted line is an even spread."});
  if (any("object_share")) measure(second, {name: "mean_object_share", title: "Weight on the marked object",
    what: "share of the map", make: both("object_share"), domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1],
    read: "Examples with a mask: what share of the map lies on the object.",
      not: "The background may be evidence too."});
  if (any("pointing")) measure(second, {name: "mean_pointing", title: "How often does the peak lie on the object?",
    what: "share of examples", make: both("pointing"), domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1],
    read: "Share of the examples with a mask whose largest value is on the object (the pointing game)."});
  return true;
});
