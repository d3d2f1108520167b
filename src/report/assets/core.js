// The data of the page, what is selected, and small helpers that everything else uses.
"use strict";

const sl = (() => {
  const data = JSON.parse(document.getElementById("sl-data").textContent);
  const cache = new Map();

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  function decode(stored) {
    const bytes = bytesOf(stored.data).buffer;
    switch (stored.type) {
      case "f32": return new Float32Array(bytes);
      case "i32": return new Int32Array(bytes);
      case "u8": return new Uint8Array(bytes);
      case "q16": { // 16-bit shares of each row's largest value
        const shares = new Uint16Array(bytes), scale = new Float32Array(bytesOf(stored.scale).buffer);
        const row = shares.length / scale.length, out = new Float32Array(shares.length);
        for (let i = 0; i < out.length; i++) out[i] = shares[i] / 65535 * scale[Math.floor(i / row)];
        return out;
      }
    }
    throw new Error("unknown tensor type " + stored.type);
  }

  // {shape, values, at(i, j, ...)}, or null when the run does not hold it. Fewer indices give a row.
  function tensor(name) {
    if (!cache.has(name)) {
      const stored = data.tensors[name];
      if (!stored) return null;
      const shape = stored.shape, values = decode(stored);
      cache.set(name, {
        shape, values,
        at(...index) {
          let offset = 0, size = values.length;
          index.forEach((i, axis) => { size /= shape[axis]; offset += i * size; });
          return size === 1 && index.length === shape.length ? values[offset] : values.subarray(offset, offset + size);
        },
      });
    }
    return cache.get(name);
  }

  // What is selected; views listen to the keys they draw.
  const state = {query: 0, layer: 0, head: 0, kind: 1, map: 0, scored: 0, sheet: 0}; // scored: a head of the attribution, layer * heads + head
  const listeners = [];
  const on = (keys, listener) => listeners.push({keys: keys.split(" "), listener});
  function set(changes) {
    const changed = Object.keys(changes).filter(key => state[key] !== changes[key]);
    if (changed.length === 0) return;
    Object.assign(state, changes);
    for (const one of listeners) if (one.keys.some(key => changed.includes(key))) one.listener();
  }

  // Elements are built from text nodes and attributes only: nothing from a prompt is ever parsed as HTML.
  function el(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined));
    return element;
  }

  const dash = "–";
  const isNumber = value => typeof value === "number" && Number.isFinite(value);
  // Three figures at most, so that no digit pretends to more than it knows.
  function number(value, digits = 3) {
    if (!isNumber(value)) return dash;
    if (value === 0) return "0";
    const size = Math.abs(value);
    return (size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(digits)))).replace(/-/g, "−");
  }
  // Two figures; more near and above 100 %, so that what is not all is never called 100 %.
  const percentFigures = size => size >= 99.95 && size < 100 ? "99.9" : String(Number(size.toPrecision(size >= 99.5 ? 3 : 2)));
  const percent = value => !isNumber(value) ? dash
    : (value === 0 ? "0" : Math.abs(value) < 0.00005 ? (value > 0 ? "< 0.01" : "> −0.01")
      : (value < 0 ? "−" : "") + percentFigures(Math.abs(value * 100))) + "\u202f%";
  // On a logarithmic axis every tick, a power of ten, is its own number.
  const percentTick = value => (value * 100).toFixed(Math.max(0, Math.round(-Math.log10(value * 100)))) + "\u202f%";

  const fixed = (value, digits) => isNumber(value) ? value.toFixed(digits).replace(/^-(?=0\.0*$)/, "").replace("-", "−") : dash;

  // White space made visible, so that a token is never an empty box.
  const visible = text => String(text).replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +| +$/g, run => "␣".repeat(run.length));
  // A token inside a sentence: without the space that begins most words.
  const word = text => visible(String(text).replace(/^ (?=\S)/, ""));
  const say = text => { document.getElementById("say").textContent = text; };

  const views = new Map();
  return {data, run: data.run, tensor, state, on, set, el, number, percent, percentTick, isNumber, visible, word, fixed, say, dash, bytesOf,
          views, view: (name, build) => views.set(name, build)};
})();

// Knockout edges in words.
sl.edgeName = edge => {
  const words = {question: "question", image: "image", role: "role marker", final: "final token", "role+final": "role marker, final token", generated: "answer"};
  const text = `${words[edge.query] ?? edge.query ?? "?"} ← ${words[edge.key] ?? edge.key ?? "?"}`;
  return text[0].toUpperCase() + text.slice(1);
};

// Facts that several views need.
sl.facts = (() => {
  const {run, word} = sl, share = sl.tensor("flow.share"), heat = sl.tensor("cam.heat");
  const classes = [
    {key: "system", name: "before the image", short: "before"},
    {key: "image", name: "image", short: "image"},
    {key: "structure", name: "image structure", short: "structure"},
    {key: "user", name: "question and template", short: "question"},
    {key: "generated", name: "answer", short: "answer"},
  ];
  const tokens = Array.isArray(run.tokens) ? run.tokens : [];
  const queries = Array.isArray(run.queries) ? run.queries : [];
  const nLayer = (share || heat || {shape: [(run.model || {}).n_layer || 0]}).shape[0];
  const nQuery = share ? share.shape[1] : 0;
  const text = token => token ? String(token.text ?? token.piece ?? "") : "";
  const cam = (run.analyses && run.analyses.cam) || {}, flow = (run.analyses && run.analyses.flow) || {};
  const defined = sl.tensor("cam.defined");
  const nMap = heat ? heat.shape[1] : 0;
  const stored = Array.isArray(cam.maps) ? cam.maps : [];
  // Stored names are the tokenizer's pieces ("▁red", "Ġred"); the answer's tokens have the text, where they match.
  const sumFirst = nMap === 1 || stored[0] === "sum", offset = sumFirst ? 1 : 0;
  const maps = Array.from({length: nMap}, (_, i) => i === 0 && sumFirst ? "sum"
    : queries.length === nMap - offset && text(tokens[queries[i - offset] + 1]) || String(stored[i] ?? "token " + i).replace(/^[▁Ġ]/, " "));
  const mapIsSum = i => i === 0 && sumFirst;
  // Tokens that show a part of the picture are of class image; structure between them (a class token, ends of rows) is not.
  const nPatch = tokens.filter(token => token.class === "image").length || null;
  const nObject = (run.image || {}).object_tokens;
  const layerOf = value => Number.isInteger(value) && value >= 0 && value < nLayer ? value : null;
  return {
    classes, tokens, queries, nLayer, nQuery, nPatch, text, cam, flow, maps, nMap, mapIsSum,
    // What an evenly spread map would put on the object; null where the run does not say.
    objectShare: nPatch !== null && sl.isNumber(nObject) ? nObject / nPatch : null,
    nHead: (sl.tensor("flow.share_heads") || {shape: [0, 0]}).shape[1],
    // What query row q predicts.
    predicted: q => text(tokens[(queries[q] ?? -2) + 1]) || "answer token " + (q + 1),
    // The query row whose attention is set beside CAM map i.
    queryOfMap: i => mapIsSum(i) ? 0 : Math.max(0, Math.min(nQuery - 1, mapIsSum(0) ? i - 1 : i)),
    mapName: i => mapIsSum(i) ? "whole answer (sum of its tokens)" : "“" + sl.word(maps[i]) + "”",
    // What an analysis measured, in words, of all answer tokens or of the first alone: whole: of how many tokens the run says.
    measured: (target, whole) => whole || tokens.filter(token => token.class === "generated").length < 2 ? `the answer’s ${target}`
      : `the ${target} of the answer’s first token (“${word(text(tokens.find(token => token.class === "generated")))}”)`,
    isDefined: il => !defined || defined.values[il] !== 0,
    attentionCliff: layerOf(flow.attention_cliff), camCliff: layerOf(cam.cliff),
    cliffShare: sl.isNumber(flow.cliff_share) ? flow.cliff_share : 0.02,
    cliffMass: sl.isNumber(cam.cliff_mass) ? cam.cliff_mass : 0.02,
    reason: cam.reason ? String(cam.reason) : "the target's gradient cannot reach the image positions at this site",
  };
})();
