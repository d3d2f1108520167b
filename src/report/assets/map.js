// Maps over the picture, on a canvas. The same drawing as src/report/overlay.c.
"use strict";

sl.maps = (() => {
  const colours = sl.bytesOf(sl.data.colours);
  // Learned queries have no place: their maps are drawn on the patches that they read, value times share of attention.
  const projection = sl.tensor("image.projection"), nQuery = projection ? projection.shape[0] : -1;
  const boxes = sl.tensor(projection ? "image.patch_box" : "image.box");
  // Views that lie side by side form a sheet (src/report/sheet.h); one sheet is drawn at a time.
  const sheets = sl.data.sheets, sheet = () => sheets[sl.state.sheet];
  const nPlaced = boxes ? boxes.shape[0] : sheets.length > 0 ? sheets[0].tokens.length : -1; // tokens of a map that has a place
  let picture = null, mask = null, outline = null;

  const load = async source => {
    if (!source) return null;
    const image = new Image();
    image.src = source;
    try {
      await image.decode();
      return image;
    } catch (error) {
      return null;
    }
  };

  // The object's border in units of the picture, from the mask.
  function findOutline(image) {
    const width = Math.min(256, image.naturalWidth), height = Math.max(1, Math.round(width * image.naturalHeight / image.naturalWidth));
    const canvas = sl.el("canvas", {width, height}), context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height).data, values = new Float64Array(width * height);
    for (let i = 0; i < values.length; i++) values[i] = Math.max(pixels[i * 4], pixels[i * 4 + 1], pixels[i * 4 + 2]) > 0 ? 1 : 0;
    const rings = d3.contours().size([width, height]).thresholds([0.5])(values)[0].coordinates.flat();
    return rings.map(ring => ring.map(([x, y]) => [x / width, y / height]));
  }

  async function prepare() {
    picture = await load(sl.data.pictures.input);
    mask = await load(sl.data.pictures.mask);
    if (mask) outline = findOutline(mask);
  }

  const size = () => picture ? [picture.naturalWidth, picture.naturalHeight] : [336, 336];
  // Tokens that show a part of the picture: all of them, and those of the sheet that is drawn.
  const everywhere = sheets.flatMap(one => one.tokens).sort((a, b) => a - b), isWhole = n => sheets.length > 0 && n === nPlaced;
  const located = n => isWhole(n) || (sheets.length > 0 && n === everywhere.length);
  const projected = n => n === nQuery && sheets.length > 0;
  const placed = n => !projected(n) && located(n), drawn = n => projected(n) || located(n);
  const shown = n => !projected(n) && isWhole(n) ? everywhere : d3.range(n);
  const inSheet = n => !projected(n) && isWhole(n) ? sheet().tokens : d3.range(n);
  function project(values) {
    const out = new Float32Array(nPlaced);
    for (let i = 0; i < nQuery; i++) {
      if (values[i] === 0) continue;
      const row = projection.at(i);
      for (let p = 0; p < nPlaced; p++) out[p] += values[i] * row[p];
    }
    return out;
  }
  // What is to be drawn of a map: `ofPatches` says that it is one of the tower's, whatever its length.
  const onPatches = (values, ofPatches) => projected(values.length) && !ofPatches ? project(values) : values;
  const cells = n => projected(n) ? nPlaced : shown(n).length; // what a map is spread over
  // A sentence for maps of tokens without a place, or nothing.
  const placeNote = n => placed(n) ? "" : projected(n)
    ? "Projected: these image tokens are learned queries without a place in the picture. Each token’s value is spread over the patches "
      + "that it reads, by its share of cross-attention: the map shows where the tokens look, not what a single patch does."
    : "These image tokens have no fixed place in the picture: one bar per token, in order.";
  // Maps of the vision tower have entries for patches only, without a class token.
  function whole(values) {
    if (isWhole(values.length)) return values;
    const out = new Float32Array(nPlaced);
    everywhere.forEach((token, k) => { out[token] = values[k]; });
    return out;
  }
  // In px of the stored picture. Without boxes the grid of the only sheet covers it.
  function boxOf(i, n) {
    if (!located(n)) return null;
    if (boxes) return boxes.at(i);
    const [width, height] = size(), [gh, gw] = sheet().grid, w = width / gw, h = height / gh;
    const x = i % gw * w, y = Math.floor(i / gw) * h;
    return [x, y, x + w, y + h];
  }
  const tokenAt = (x, y, n) => {
    const i = inSheet(n).findIndex(token => {
      const box = boxOf(token, n);
      return box && x >= box[0] && x < box[2] && y >= box[1] && y < box[3];
    });
    return i < 0 ? -1 : inSheet(n)[i];
  };

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function rasterGrid(values, width, height, smooth) {
    const n = values.length, [gh, gw] = sheet().grid, [fullWidth, fullHeight] = size();
    const area = [Infinity, Infinity, -Infinity, -Infinity], all = values;
    values = Float32Array.from(sheet().tokens, i => all[i]);
    for (const i of sheet().tokens) {
      const box = boxOf(i, n);
      for (let k = 0; k < 4; k++) {
        const value = box[k] * (k % 2 ? height / fullHeight : width / fullWidth);
        area[k] = k < 2 ? Math.min(area[k], value) : Math.max(area[k], value);
      }
    }
    const out = new Float32Array(width * height).fill(NaN);
    for (let y = 0; y < height; y++) {
      let v = (y + 0.5 - area[1]) / (area[3] - area[1]) * gh - 0.5;
      if (v < -0.5 || v > gh - 0.5) continue;
      v = clamp(smooth ? v : Math.round(v), 0, gh - 1);
      const y0 = Math.floor(v), y1 = Math.min(y0 + 1, gh - 1), dy = v - y0;
      for (let x = 0; x < width; x++) {
        let u = (x + 0.5 - area[0]) / (area[2] - area[0]) * gw - 0.5;
        if (u < -0.5 || u > gw - 0.5) continue;
        u = clamp(smooth ? u : Math.round(u), 0, gw - 1);
        const x0 = Math.floor(u), x1 = Math.min(x0 + 1, gw - 1), dx = u - x0;
        out[y * width + x] = (values[y0 * gw + x0] * (1 - dx) + values[y0 * gw + x1] * dx) * (1 - dy)
          + (values[y1 * gw + x0] * (1 - dx) + values[y1 * gw + x1] * dx) * dy;
      }
    }
    return out;
  }

  function rasterBoxes(values, width, height) {
    const out = new Float32Array(width * height), count = new Uint16Array(width * height), [fullWidth, fullHeight] = size();
    for (const i of sheet().tokens) {
      const box = boxOf(i, values.length), sx = width / fullWidth, sy = height / fullHeight;
      const x0 = clamp(Math.round(box[0] * sx), 0, width), x1 = clamp(Math.round(box[2] * sx), 0, width);
      const y0 = clamp(Math.round(box[1] * sy), 0, height), y1 = clamp(Math.round(box[3] * sy), 0, height);
      for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) { out[y * width + x] += values[i]; count[y * width + x]++; }
    }
    return out.map((value, i) => count[i] ? value / count[i] : NaN);
  }

  function drawPicture(context, width, height) {
    if (picture) {
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, 0, 0, width, height);
    } else {
      context.fillStyle = "#b9bcc0";
      context.fillRect(0, 0, width, height);
    }
  }

  function drawHatch(context, width, height, withPicture) {
    context.filter = "grayscale(1)";
    if (withPicture) drawPicture(context, width, height);
    context.filter = "none";
    context.fillStyle = withPicture ? "rgba(214,216,219,0.86)" : "#e8e9eb";
    context.fillRect(0, 0, width, height);
    context.strokeStyle = "rgba(70,76,84,0.75)";
    context.lineWidth = Math.max(1, width / 160);
    context.beginPath();
    const step = Math.max(9, width / 16);
    for (let x = -height; x < width; x += step) { context.moveTo(x, height); context.lineTo(x + height, 0); }
    context.stroke();
  }

  function drawOutline(context, width, height) {
    if (!outline) return;
    for (const [style, lineWidth] of [["rgba(0,0,0,0.75)", 3.5], ["#fff", 1.5]]) {
      context.strokeStyle = style;
      context.lineWidth = lineWidth * Math.max(0.6, width / 480);
      context.beginPath();
      for (const ring of outline) ring.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x * width, y * height));
      context.stroke();
    }
  }

  // Image tokens that have no place in the picture: a bar for each, in order.
  function drawBars(context, values, maximum, width, height) {
    context.fillStyle = "#e8e9eb";
    context.fillRect(0, 0, width, height);
    const step = width / values.length;
    values.forEach((value, i) => {
      const share = maximum > 0 ? clamp(value / maximum, 0, 1) : 0, c = Math.round(share * 255) * 3;
      context.fillStyle = `rgb(${colours[c]},${colours[c + 1]},${colours[c + 2]})`;
      context.fillRect(i * step, height * (1 - share * 0.92), Math.max(1, step - 0.5), height * share * 0.92);
    });
  }

  // options: maximum, strength 0..1, smooth, hatch, outline
  function paint(canvas, values, options) {
    const context = canvas.getContext("2d", {willReadFrequently: true}), {width, height} = canvas;
    if (options.hatch) return drawHatch(context, width, height, drawn(values.length));
    values = onPatches(values, options.ofPatches);
    if (options.bars || !located(values.length)) return drawBars(context, Array.from(values), options.maximum, width, height);
    drawPicture(context, width, height);
    if (options.maximum > 0 && options.strength > 0) {
      values = whole(values);
      const raster = sheet().grid.length > 0 ? rasterGrid(values, width, height, options.smooth !== false) : rasterBoxes(values, width, height);
      const image = context.getImageData(0, 0, width, height), pixels = image.data;
      for (let i = 0; i < raster.length; i++) {
        const raw = raster[i];
        if (raw !== raw) continue;
        // The picture turns grey, so that colour means the map alone; low values stay transparent.
        const value = clamp(raw / options.maximum, 0, 1), alpha = options.strength * (0.12 + 0.88 * value), at = i * 4;
        const c = Math.round(value * 255) * 3, grey = 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
        for (let k = 0; k < 3; k++) {
          const base = pixels[at + k] * (1 - options.strength) + grey * options.strength;
          pixels[at + k] = base * (1 - alpha) + colours[c + k] * alpha;
        }
      }
      context.putImageData(image, 0, 0);
    }
    if (options.outline) drawOutline(context, width, height);
  }

  // The part of the picture that the tokens show, in its px; null when that is all of it, or not known.
  function frame() {
    const seen = picture && boxes ? everywhere.map(i => boxes.at(i)) : [], [width, height] = size();
    if (seen.length === 0) return null;
    const [x0, y0, x1, y1] = [d3.min, d3.min, d3.max, d3.max].map((most, k) => most(seen, box => box[k]));
    return x0 < 1 && y0 < 1 && x1 > width - 1 && y1 > height - 1 ? null : [x0, y0, x1, y1];
  }

  // Dims what was cropped away.
  function drawFrame(context, width, height) {
    const area = frame();
    if (!area) return;
    const sx = width / size()[0], sy = height / size()[1];
    const x0 = Math.max(0, area[0] * sx), y0 = Math.max(0, area[1] * sy), x1 = Math.min(width, area[2] * sx), y1 = Math.min(height, area[3] * sy);
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = "rgba(20,22,26,0.7)";
    context.fill("evenodd");
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.strokeRect(x0 + 1, y0 + 1, x1 - x0 - 2, y1 - y0 - 2);
  }

  // The picture, framed where the model saw only a part; everything but the object dimmed when `masked`.
  function paintPicture(canvas, masked) {
    const context = canvas.getContext("2d", {willReadFrequently: true}), {width, height} = canvas;
    drawPicture(context, width, height);
    if (masked && mask) dimRest(context, width, height);
    drawFrame(context, width, height);
  }

  function dimRest(context, width, height) {
    const layer = sl.el("canvas", {width, height}), inner = layer.getContext("2d", {willReadFrequently: true});
    inner.drawImage(mask, 0, 0, width, height);
    const of = inner.getImageData(0, 0, width, height).data, image = context.getImageData(0, 0, width, height);
    for (let i = 0; i < of.length; i += 4) {
      if (of[i] || of[i + 1] || of[i + 2]) continue;
      for (let k = 0; k < 3; k++) image.data[i + k] = image.data[i + k] * 0.28 + 14;
    }
    context.putImageData(image, 0, 0);
    drawOutline(context, width, height);
  }

  // Frames round some tokens, black under white.
  function frames(canvas, tokens, n) {
    if (projected(n)) return;
    const context = canvas.getContext("2d"), sx = canvas.width / size()[0], sy = canvas.height / size()[1];
    for (const [style, lineWidth] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = lineWidth;
      for (const i of tokens.filter(token => inSheet(n).includes(token))) {
        const box = boxOf(i, n);
        if (box) context.strokeRect(box[0] * sx, box[1] * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
      }
    }
  }

  // A tooltip for the token under the pointer: lines(i).
  function pointed(canvas, n, lines) {
    if (projected(n)) return;
    canvas.addEventListener("mousemove", event => {
      const box = canvas.getBoundingClientRect(), [width, height] = size(), x = (event.clientX - box.left) / box.width;
      const i = placed(n) ? tokenAt(x * width, (event.clientY - box.top) / box.height * height, n) : Math.min(n - 1, Math.max(0, Math.floor(x * n)));
      if (i < 0) sl.tip.hide(); else sl.tip.at(event, lines(i));
    });
    canvas.addEventListener("mouseleave", sl.tip.hide);
  }

  const colour = share => {
    const c = Math.round(clamp(share, 0, 1) * 255) * 3;
    return `rgb(${colours[c]},${colours[c + 1]},${colours[c + 2]})`;
  };
  // A canvas of the picture's shape, `width` px wide.
  const canvas = (width, attributes) => sl.el("canvas", {width: Math.round(width),
    height: Math.max(1, Math.round(width * size()[1] / size()[0])), ...attributes});
  // The largest value that can be seen.
  const top = (map, ofPatches) => {
    const values = onPatches(map, ofPatches);
    let best = 0;
    for (const i of isWhole(values.length) ? everywhere : d3.range(values.length)) if (values[i] > best) best = values[i];
    return best;
  };
  // Share of a map on tokens that show no part of the picture.
  const unseen = values => { const sum = d3.sum(values); return sum > 0 ? Math.max(0, 1 - d3.sum(shown(values.length), i => values[i]) / sum) : 0; };
  // A sheet in words, and a switch between them; both nothing where there is but one.
  const nameOf = one => {
    const views = one.views, ends = [views[0], views[views.length - 1]];
    return views.length === 1 ? `view ${ends[0]}` : ends[1] - ends[0] === views.length - 1 ? `views ${ends[0]}–${ends[1]}` : `views ${views.join(", ")}`;
  };
  const sheetName = () => sheets.length > 1 ? nameOf(sheet()) : "";
  let switches = 0;
  function viewSwitch() {
    if (sheets.length < 2) return null;
    const field = sl.radios("Draw the tokens of", "sheet-" + switches++,
      sheets.map((one, s) => ({value: s, label: `${nameOf(one)}, ${one.tokens.length} tokens`})), sl.state.sheet, s => sl.set({sheet: s}));
    field.classList.add("views");
    sl.on("sheet", () => sl.choose(field, sl.state.sheet));
    return field;
  }
  // Sum of a map's positive entries on the tokens of every sheet: [[name, sum]], nothing where there is but one.
  const sheetSums = values => sheets.length < 2 || projected(values.length) || !isWhole(values.length) ? []
    : sheets.map(one => [nameOf(one), d3.sum(one.tokens, i => Math.max(0, values[i]))]);
  const gradient = () => "linear-gradient(90deg," + d3.range(0, 1.01, 0.1).map(colour).join(",") + ")";
  return {prepare, paint, paintPicture, frame, colour, canvas, frames, pointed, top, boxOf, tokenAt, placed, projected, drawn, cells, placeNote, unseen, shown, inSheet,
          size, gradient, sheets, nameOf, sheetName, sheetSums, viewSwitch,
          hasMask: () => mask !== null, hasPicture: () => picture !== null};
})();
