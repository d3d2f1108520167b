// Charts of a number over a number: curves that carry their names, and scatter plots. Needs chart.js.
"use strict";

sl.curve = (() => {
  const {attributes, text, line} = sl.chart;
  const paper = "paint-order:stroke;stroke:var(--surface);stroke-width:3px";

  // Line styles for up to six curves: the first is the one that the figure is about, its rivals differ in dash and point.
  const styles = [
    {colour: "--s-attention", width: 2.4, shape: "circle"},
    {colour: "--c-image", dash: "7 3", width: 1.7, shape: "square"},
    {colour: "--s-cam", dash: "2 3", width: 1.9, shape: "square", hollow: true},
    {colour: "--c-user", dash: "9 3 2 3", width: 1.7, shape: "circle", hollow: true},
    {colour: "--ink-3", dash: "1 3.5", width: 1.7},
    {colour: "--ink-3", dash: "5 5", width: 1.3},
  ];
  // Rankings of image tokens are up to six, and chance besides (styles[4]).
  const rankStyles = [...styles.slice(0, 4), {colour: "--c-generated", dash: "14 3", width: 1.7, shape: "diamond"},
    {colour: "--c-structure", dash: "4 2 1 2", width: 1.9, shape: "diamond", hollow: true}];

  // Ticks at whole numbers on a square-root axis, far enough apart to be read.
  function rootTicks(most, x) {
    const ticks = [];
    for (const tick of [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4]) {
      if (tick < most && (ticks.length === 0 || x(tick) - x(ticks[ticks.length - 1]) > 26)) ticks.push(tick);
    }
    while (ticks.length > 1 && x(most) - x(ticks[ticks.length - 1]) < 32) ticks.pop();
    return [...ticks, most];
  }

  // Height of a curve at x px, between its points; NaN outside.
  function heightAt(points, at) {
    for (let i = 1; i < points.length; i++) {
      const [x0, y0] = points[i - 1], [x1, y1] = points[i];
      if (at >= x0 && at <= x1) return x1 > x0 ? y0 + (y1 - y0) * (at - x0) / (x1 - x0) : y1;
    }
    return NaN;
  }

  // Writes every curve's name where it is nearest to its own curve and clear of the others and of names already there.
  function nameCurves(chart, curves, area) {
    const taken = [];
    for (const [own, one] of curves.entries()) {
      const width = one.name.length * 6 + 4;
      let best = null;
      for (const [x, y] of one.points) {
        for (const [dx, dy] of [[8, 16], [8, -8], [-width - 6, -8], [-width - 6, 16]]) {
          const box = [x + dx, y + dy - 10, x + dx + width, y + dy + 3];
          if (box[0] < area[0] + 2 || box[2] > area[2] || box[1] < area[1] || box[3] > area[3]) continue;
          if (taken.some(other => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
          let clear = 40;
          curves.forEach((other, i) => {
            const apart = Math.abs(heightAt(other.points, x) - y); // where curves lie on each other a name says nothing
            if (i !== own && apart === apart) clear = Math.min(clear, apart - 4);
            for (let at = box[0]; at <= box[2]; at += 6) {
              const h = heightAt(other.points, at), gap = h > box[3] ? h - box[3] : h < box[1] ? box[1] - h : h === h ? -4 : 40;
              clear = Math.min(clear, i === own && gap > 0 ? 40 : gap);
            }
          });
          if (best === null || clear > best.clear) best = {clear, box};
        }
      }
      if (best === null || best.clear < 3) continue; // the legend names it
      taken.push(best.box);
      text(chart, best.box[0] + 2, best.box[3] - 3, one.name, {"font-size": 11, "font-weight": own === 0 ? 600 : 400,
        style: `fill:var(--ink);${paper}`});
    }
  }

  function drawPoint(chart, style, x, y, size = 2.6) {
    const look = `fill:var(${style.hollow ? "--surface" : style.colour});stroke:var(${style.colour});stroke-width:1.3`;
    if (style.shape === "square") attributes(chart.append("rect"), {x: x - size, y: y - size, width: size * 2, height: size * 2,
      style: look});
    else if (style.shape === "diamond") attributes(chart.append("path"), {d: `M${x - size * 1.4} ${y}l${size * 1.4} ${-size * 1.4}l${size * 1.4} ${size * 1.4}l${-size * 1.4} ${size * 1.4}z`,
      style: look});
    else if (style.shape) attributes(chart.append("circle"), {cx: x, cy: y, r: size, style: look});
  }

  // An interval round a curve: a band of the curve's colour.
  function drawBand(chart, one, xs, x, y) {
    if (!one.low) return;
    const area = d3.area().defined(i => sl.isNumber(one.low[i]) && sl.isNumber(one.high[i])).x(i => x(xs[i])).y0(i => y(one.low[i]))
      .y1(i => y(one.high[i]));
    attributes(chart.append("path"), {class: "band", d: area(d3.range(xs.length)) || "",
      style: `fill:var(${one.style.colour});fill-opacity:0.16;stroke:none`});
  }

  // series: {name, values [n], style, low and high [n] of intervals, if any}; options: x [n], axis (label), height, domain, ticks, format, label, root (square-root axis),
  // levels [{value, label}] dotted lines, marks [{x, label}], unit or name (x) for the tooltip's first line.
  function curves(element, series, options) {
    const xs = options.x, most = xs[xs.length - 1], format = options.format || sl.number;
    return sl.responsive(element, width => {
      const margin = {left: 46, right: 14, top: options.marks ? 24 : 12, bottom: 38}, height = options.height;
      const chart = sl.chart.svg(element, width, height, options.label);
      const x = (options.root ? d3.scaleSqrt() : d3.scaleLinear()).domain([options.root ? 0 : xs[0], most]).range([margin.left,
        width - margin.right]);
      const y = d3.scaleLinear().domain(options.domain).range([height - margin.bottom, margin.top]).clamp(true),
        bottom = height - margin.bottom;
      sl.chart.valueAxis(chart, y, margin.left, width - margin.right, options.ticks || y.ticks(4), format);
      for (const tick of options.root ? rootTicks(most, x) : x.ticks(Math.max(2, Math.floor(width / 110)))) {
        line(chart, x(tick), bottom, x(tick), bottom + 3, "stroke:var(--ink-3);stroke-width:1");
        text(chart, x(tick), bottom + 15, Number.isInteger(tick) ? String(tick) : sl.number(tick), {"text-anchor": "middle"});
      }
      text(chart, margin.left, bottom + 31, options.axis);
      for (const level of options.levels || []) {
        line(chart, margin.left, y(level.value), width - margin.right, y(level.value),
          "stroke:var(--ink-2);stroke-width:1;stroke-dasharray:1 4;stroke-linecap:round");
      }
      for (const mark of options.marks || []) {
        if (!sl.isNumber(mark.x)) continue;
        const right = x(mark.x) > width * 0.6;
        line(chart, x(mark.x), margin.top - 4, x(mark.x), bottom, "stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 3");
        text(chart, x(mark.x) + (right ? -5 : 5), margin.top - 8, mark.label, {"text-anchor": right ? "end" : "start", "font-weight": 600,
          style: `fill:var(--ink);${paper}`});
      }
      const drawn = series.map(one => ({name: one.name, style: one.style,
        path: d3.line().defined(i => sl.isNumber(one.values[i])).x(i => x(xs[i])).y(i => y(one.values[i]))(d3.range(xs.length)),
        points: Array.from(one.values, (value, i) => [x(xs[i]), y(value)]).filter((point, i) => sl.isNumber(one.values[i]))}));
      for (const one of series) drawBand(chart, one, xs, x, y);
      for (const one of [...drawn].reverse()) { // the first on top
        attributes(chart.append("path"), {d: one.path || "",
          style: `fill:none;stroke:var(${one.style.colour});stroke-width:${one.style.width};stroke-dasharray:${one.style.dash || "none"}`});
        let last = -100;
        for (const point of one.points) if (point[0] - last > 16) { drawPoint(chart, one.style, point[0], point[1]); last = point[0]; }
      }
      if (series.length > 1 && width >= 360) nameCurves(chart, drawn, [margin.left, margin.top, width - margin.right, bottom]);
      const guide = attributes(chart.append("line"), {"data-cursor": "", y1: margin.top, y2: bottom,
        style: "stroke:var(--focus);stroke-width:1", visibility: "hidden"});
      attributes(chart.append("rect"), {x: margin.left, y: margin.top, width: Math.max(1, width - margin.right - margin.left),
        height: bottom - margin.top, style: "fill:transparent"})
        .on("mousemove", () => {
          const at = x.invert(d3.mouse(chart.node())[0]), i = d3.scan(Array.from(xs, value => Math.abs(value - at)));
          attributes(guide, {x1: x(xs[i]), x2: x(xs[i]), visibility: "visible"});
          sl.tip.at(d3.event, [options.name ? options.name(xs[i]) : `${xs[i]} ${options.unit}`,
            ...series.map(one => `${one.name}: ${format(one.values[i])}${one.low && sl.isNumber(one.low[i])
              ? ` (${format(one.low[i])} to ${format(one.high[i])})` : ""}`)]);
        })
        .on("mouseleave", () => { guide.attr("visibility", "hidden"); sl.tip.hide(); });
    });
  }

  // points: [[x, y]]; both axes on one scale, with the line where they are equal.
  function scatter(element, points, options) {
    return sl.responsive(element, width => {
      const side = Math.min(width, 360), margin = {left: 50, right: 14, top: 12, bottom: 38};
      const chart = sl.chart.svg(element, width, side, options.label), all = points.flat().filter(sl.isNumber);
      const [low, high] = d3.extent(all), room = (high - low || 1) * 0.05;
      const right = Math.min(width - margin.right, margin.left + side - margin.top - margin.bottom + 20);
      const x = d3.scaleLinear().domain([low - room, high + room]).range([margin.left, right]);
      const y = d3.scaleLinear().domain(x.domain()).range([side - margin.bottom, margin.top]), bottom = side - margin.bottom;
      sl.chart.valueAxis(chart, y, margin.left, right, y.ticks(4), sl.number);
      for (const tick of x.ticks(4)) text(chart, x(tick), bottom + 15, sl.number(tick), {"text-anchor": "middle"});
      text(chart, margin.left, bottom + 31, options.axis);
      line(chart, x(low - room), y(low - room), x(high + room), y(high + room), "stroke:var(--ink-2);stroke-width:1;stroke-dasharray:4 3");
      text(chart, margin.left + 6, margin.top + 10, options.vertical, {style: `fill:var(--ink-2);${paper}`});
      const size = points.length > 400 ? 1.6 : 2.4;
      points.forEach(([px, py], i) => {
        if (!sl.isNumber(px) || !sl.isNumber(py)) return;
        attributes(chart.append("circle"), {cx: x(px), cy: y(py), r: size, style: "fill:var(--s-attention);fill-opacity:0.55"})
          .on("mousemove", () => sl.tip.at(d3.event, [`test mask ${i + 1}`, `predicted: ${sl.number(px)}`,
            `true: ${sl.number(py)}`])).on("mouseleave", sl.tip.hide);
      });
    });
  }

  // A legend of line styles.
  const key = series => sl.el("p", {class: "key lines"}, series.map(one => sl.el("span", {}, sample(one.style), one.name,
    one.note ? sl.el("small", {}, " " + one.note) : null)));
  function sample(style) {
    const holder = sl.el("span", {class: "sample", "aria-hidden": "true"});
    const chart = attributes(d3.select(holder).append("svg"), {width: 34, height: 10});
    line(chart, 0, 5, 34, 5, `stroke:var(${style.colour});stroke-width:${style.width};stroke-dasharray:${style.dash || "none"}`);
    drawPoint(chart, style, 17, 5);
    return holder;
  }

  return {curves, scatter, styles, rankStyles, key};
})();
