// Charts over layers: shared axes, cliff markers, undefined layers, the selected layer, line charts.
"use strict";

sl.chart = (() => {
  const ink = "fill:var(--ink-2)", font = {"font-size": 11.5, style: ink};
  const attributes = (selection, values) => {
    for (const [key, value] of Object.entries(values)) selection.attr(key, value);
    return selection;
  };
  const text = (parent, x, y, string, more = {}) => attributes(parent.append("text"), {x, y, ...font, ...more}).text(string);
  const line = (parent, x1, y1, x2, y2, style) => attributes(parent.append("line"), {x1, y1, x2, y2, style});

  function svg(element, width, height, label) {
    element.replaceChildren();
    const chart = d3.select(element).append("svg");
    return attributes(chart, {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label});
  }

  // Hatching per class, so that no class is told by colour alone.
  let serial = 0;
  function patterns(chart) {
    const prefix = "p" + serial++ + "-", defs = chart.append("defs");
    const make = (name, size, draw, back) => {
      const pattern = attributes(defs.append("pattern"), {id: prefix + name, width: size, height: size, patternUnits: "userSpaceOnUse"});
      attributes(pattern.append("rect"), {width: size, height: size, style: `fill:var(${back})`});
      draw(pattern);
    };
    const stroke = (d, width) => pattern => attributes(pattern.append("path"), {d, style: `stroke:var(--pattern);stroke-width:${width};fill:none`});
    make("system", 6, pattern => attributes(pattern.append("circle"), {cx: 3, cy: 3, r: 0.9, style: "fill:var(--pattern)"}), "--c-system");
    make("image", 4, () => {}, "--c-image");
    make("structure", 5, stroke("M0 2.5H5M2.5 0V5", 0.9), "--c-structure");
    make("user", 6, stroke("M-1 7L7 -1M-1 1L1 -1M5 7L7 5", 1.2), "--c-user");
    make("generated", 5, stroke("M2.5 0V5", 1.3), "--c-generated");
    make("undefined", 7, pattern => attributes(pattern.append("path"),
      {d: "M-1 8L8 -1M-1 1L1 -1M6 8L8 6", style: "stroke:var(--ink-3);stroke-width:0.9;fill:none"}), "--surface");
    return name => `fill:url(#${prefix}${name})`;
  }

  // One band per layer; curves over cuts or residuals have one point more (n).
  const layers = (left, right, n = sl.facts.nLayer) => d3.scaleBand().domain(d3.range(n)).range([left, right]).paddingInner(0.12).paddingOuter(0.06);
  const count = x => x.domain().length;

  function layerAxis(chart, x, y, label = "layer (0 = first)") {
    const n = count(x), room = Math.max(1, Math.floor((x.range()[1] - x.range()[0]) / 26));
    const every = [1, 2, 4, 5, 8, 10, 16, 20].find(step => Math.ceil(n / step) <= room) || 20;
    for (let il = 0; il < n; il += every) {
      text(chart, x(il) + x.bandwidth() / 2, y + 15, il, {"text-anchor": "middle"});
    }
    if (label) text(chart, x.range()[0], y + 31, label, {});
  }

  function valueAxis(chart, y, left, right, ticks, format) {
    for (const tick of ticks) {
      line(chart, left, y(tick), right, y(tick), "stroke:var(--rule);stroke-width:1");
      text(chart, left - 7, y(tick) + 4, format(tick), {"text-anchor": "end"});
    }
  }

  // The first layer of a cliff: a dashed line at its left edge with a flag.
  function marker(chart, x, top, bottom, layer, label, row = 0) {
    if (layer === null) return;
    const at = x(layer) - x.step() * 0.06, right = at > (x.range()[0] + x.range()[1]) * 0.62;
    line(chart, at, top - 3 - row * 14, at, bottom, "stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 3");
    text(chart, at + (right ? -5 : 5), top + 2 - row * 14, label, {"text-anchor": right ? "end" : "start", "font-weight": 600,
      style: "fill:var(--ink);paint-order:stroke;stroke:var(--surface);stroke-width:3px"});
  }
  const markers = () => [[sl.facts.attentionCliff, "attention cliff"], [sl.facts.camCliff, "CAM cliff"]];

  // A frame round the selected layer; follows the selection without a redraw.
  function cursor(chart, x, top, bottom) {
    const frame = attributes(chart.append("rect"), {"data-cursor": "", y: top, height: bottom - top, rx: 2,
      style: "fill:none;stroke:var(--focus);stroke-width:1.5;pointer-events:none"});
    const move = () => attributes(frame, {x: x(sl.state.layer) - 1, width: x.bandwidth() + 2}); // layer < nLayer <= count(x)
    move();
    return move;
  }

  // Invisible columns that answer the pointer: lines(il) for the tooltip; a click selects the layer.
  function columns(chart, x, top, bottom, lines) {
    for (let il = 0; il < count(x); il++) {
      attributes(chart.append("rect"), {x: x(il) - x.step() * 0.06, width: x.step(), y: top, height: bottom - top,
        style: "fill:transparent;cursor:pointer"})
        .on("mousemove", () => sl.tip.at(d3.event, lines(il))).on("mouseleave", sl.tip.hide)
        .on("click", () => sl.set({layer: Math.min(il, sl.facts.nLayer - 1)}));
    }
  }

  // series: {name, values, colour, dash, shape ("circle"|"square"), undefinedAt (il) => bool}; options: height, domain,
  // ticks, format, scale ("linear"|"log"), baseline {value, label}, plainTop, label, hatch (il) => bool, points (their number, if
  // not one per layer), name (il) => first line of the tooltip, axisLabel, marks [[layer, label]], band [low, high].
  function lines(element, series, options) {
    let move = () => {};
    const draw = width => {
      const marks = options.plainTop ? [] : options.marks ? options.marks.filter(([layer]) => layer !== null) : markers();
      const margin = {left: 46, right: 14, top: options.plainTop ? 14 : options.marks ? 16 + 14 * marks.length : 36, bottom: options.axisLabel === false ? 22 : 38};
      const height = options.height, x = layers(margin.left, width - margin.right, options.points);
      const chart = svg(element, width, height, options.label), fill = patterns(chart);
      const y = (options.scale === "log" ? d3.scaleLog() : d3.scaleLinear()).domain(options.domain).range([height - margin.bottom, margin.top]).clamp(true);
      if (options.hatch) {
        for (let il = 0; il < sl.facts.nLayer; il++) {
          if (options.hatch(il)) attributes(chart.append("rect"), {x: x(il), width: x.bandwidth(), y: margin.top, height: height - margin.bottom - margin.top, style: fill("undefined")});
        }
      }
      if (options.band) attributes(chart.append("rect"), {x: margin.left, width: width - margin.right - margin.left, y: y(options.band[1]),
        height: Math.max(1, y(options.band[0]) - y(options.band[1])), style: fill("undefined"), opacity: 0.6});
      valueAxis(chart, y, margin.left, width - margin.right, options.ticks || y.ticks(4), options.tickFormat || options.format || sl.number);
      if (options.baseline && sl.isNumber(options.baseline.value)) {
        line(chart, margin.left, y(options.baseline.value), width - margin.right, y(options.baseline.value), "stroke:var(--ink-2);stroke-width:1;stroke-dasharray:1 4;stroke-linecap:round");
      }
      marks.forEach(([layer, label], i) => marker(chart, x, margin.top, height - margin.bottom, layer, label, options.marks ? i + 1 : i));
      for (const one of series) drawSeries(chart, one, x, y);
      if (options.baseline && sl.isNumber(options.baseline.value)) placeLabel(chart, options.baseline.label, series, x, y, y(options.baseline.value));
      layerAxis(chart, x, height - margin.bottom, options.axisLabel);
      columns(chart, x, margin.top, height - margin.bottom, il => [options.name ? options.name(il) : "layer " + il, ...series.map(one =>
        `${one.name}: ${options.hatch && options.hatch(il) && one.hatched ? "undefined" : (options.format || sl.number)(one.values[il])}`)]);
      move = cursor(chart, x, margin.top - 2, height - margin.bottom + 2);
    };
    const redraw = sl.responsive(element, draw);
    sl.on("layer", () => move());
    return redraw;
  }

  // A baseline's label where it is farthest from the data: left or right end, above or below the line.
  function placeLabel(chart, label, series, x, y, at) {
    const [left, right] = x.range(), width = label.length * 5.9, [bottom, top] = y.range();
    const room = place => {
      const from = place.end ? right - width : left, middle = place.y - 4;
      if (middle < top + 2 || middle > bottom - 4) return -1;
      let nearest = 200;
      for (const one of series) {
        for (let il = 0; il < count(x); il++) {
          const centre = x(il) + x.bandwidth() / 2;
          if (sl.isNumber(one.values[il]) && centre > from - 12 && centre < from + width + 12) nearest = Math.min(nearest, Math.abs(y(one.values[il]) - middle));
        }
      }
      return nearest;
    };
    const places = [{end: true, y: at - 5}, {end: true, y: at + 13}, {end: false, y: at - 5}, {end: false, y: at + 13}];
    const best = places.reduce((a, b) => room(b) > room(a) + 2 ? b : a);
    text(chart, best.end ? right : left + 4, best.y, label, {"text-anchor": best.end ? "end" : "start", "font-size": 11,
      style: "fill:var(--ink-2);paint-order:stroke;stroke:var(--surface);stroke-width:3px"});
  }

  function drawSeries(chart, one, x, y) {
    const centre = il => x(il) + x.bandwidth() / 2, present = il => sl.isNumber(one.values[il]);
    const path = d3.line().defined((value, il) => present(il)).x((value, il) => centre(il)).y(value => y(value))(Array.from(one.values));
    if (!one.pointsOnly) attributes(chart.append("path"), {d: path || "", style: `fill:none;stroke:var(${one.colour});stroke-width:2;stroke-dasharray:${one.dash || "none"}`});
    const size = count(x) > 48 ? 2 : 3.2;
    for (let il = 0; il < count(x); il++) {
      if (!present(il)) continue;
      const style = `fill:var(${one.hollow ? "--surface" : one.colour});stroke:var(${one.colour});stroke-width:1.6`;
      if (one.shape === "square") attributes(chart.append("rect"), {x: centre(il) - size, y: y(one.values[il]) - size, width: size * 2, height: size * 2, style});
      else attributes(chart.append("circle"), {cx: centre(il), cy: y(one.values[il]), r: size, style});
    }
  }

  return {svg, text, line, attributes, patterns, layers, layerAxis, valueAxis, marker, markers, cursor, columns, lines};
})();
