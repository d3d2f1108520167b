// Figures: heading, download buttons, words on how to read it, the numbers as a table; tooltips and controls.
"use strict";

// Colours are CSS variables, so figures follow light, dark and print; an exported file gets the values of the moment.
sl.resolveColours = text => {
  const style = getComputedStyle(document.documentElement);
  return text.replace(/var\((--[a-z0-9-]+)\)/g, (all, name) => style.getPropertyValue(name).trim() || "#888");
};

sl.save = (blob, name) => {
  const link = sl.el("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// What stands around a figure's drawing on the page, for a file that has to speak for itself: title, captions, legend.
sl.surroundings = figure => {
  const seen = selector => [...figure.querySelectorAll(selector)].filter(one => !one.closest("[hidden]"));
  const words = selector => seen(selector).map(one => one.textContent.trim()).filter(text => text);
  const chosen = [...seen("fieldset.radios").map(set => [set.querySelector("legend"), set.querySelector("input:checked + span")]),
    ...seen("label.field select").map(select => [select.closest("label").querySelector("span"), select.selectedOptions[0]])]
    .filter(pair => pair[0] && pair[1]).map(pair => `${pair[0].textContent}: ${pair[1].textContent}`);
  const entries = seen(".key > span, .legend .entry").map(entry => ({sample: entry.querySelector("svg"),
    colour: entry.classList.contains("token") ? getComputedStyle(entry).backgroundColor : null, text: entry.textContent.trim()}));
  const scale = seen(".legend").filter(one => one.querySelector(".ramp")).map(one => [...one.children]
    .map(part => part.textContent.trim()).filter(text => text)).filter(ends => ends.length > 1)
    .map(ends => `dark ${ends[0]} to yellow ${ends[ends.length - 1]}`);
  return {title: figure.querySelector(".head h3").textContent, lines: [...words(".body .strong"), ...chosen, ...words(":scope > .caption, .body .caption"), ...scale], entries};
};

// An SVG of the drawing, title above, legend and captions below, wide enough for everything that the drawing holds.
sl.svgText = (svg, {title, lines, entries}) => {
  const box = svg.getBBox(), margin = 12, row = 18;
  const wideness = entry => 46 + entry.text.length * 7, longest = Math.max(0, ...entries.map(wideness)) - margin;
  const left = Math.min(0, box.x), width = Math.max(Number(svg.getAttribute("width")), box.x + box.width, longest) - left;
  const top = Math.min(0, box.y), height = Math.max(Number(svg.getAttribute("height")), box.y + box.height) - top;
  const outer = d3.select(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
  const paper = outer.append("rect"), text = (x, y, string, style = "fill:var(--ink-2)") => outer.append("text").attr("x", x).attr("y", y)
    .attr("font-size", 12).attr("style", style).text(string);
  const heading = sl.wrapped(title, width / 9), head = margin + row * heading.length + 6;
  heading.forEach((part, i) => text(margin, margin + 10 + row * i, part, "fill:var(--ink);font-weight:600;font-size:14px"));
  const copy = svg.cloneNode(true);
  copy.querySelectorAll("[data-cursor]").forEach(cursor => cursor.remove());
  for (const [key, value] of Object.entries({x: margin - left, y: head - top, overflow: "visible", "data-drawing": ""})) copy.setAttribute(key, value);
  outer.node().append(copy);
  let x = margin, y = head + height + row;
  for (const entry of entries) {
    const wide = wideness(entry);
    if (x > margin && x + wide > margin + width) { x = margin; y += row; }
    if (entry.sample) {
      const sample = entry.sample.cloneNode(true);
      sample.setAttribute("x", x);
      sample.setAttribute("y", y - 5 - Number(entry.sample.getAttribute("height")) / 2);
      outer.node().append(sample);
    } else if (entry.colour) outer.append("rect").attr("x", x).attr("y", y - 10).attr("width", 12).attr("height", 12).attr("style", `fill:${entry.colour}`);
    text(x + (entry.sample ? Number(entry.sample.getAttribute("width")) + 5 : entry.colour ? 17 : 0), y, entry.text);
    x += wide;
  }
  if (entries.length) y += row;
  for (const line of lines) for (const part of sl.wrapped(line, width / 7)) { text(margin, y, part); y += row; }
  const size = {width: width + 2 * margin, height: y - row + margin};
  for (const [key, value] of Object.entries({...size, viewBox: `0 0 ${size.width} ${size.height}`, "font-family": "system-ui, sans-serif"})) outer.attr(key, value);
  paper.attr("width", size.width).attr("height", size.height).attr("style", "fill:var(--surface)");
  return {text: sl.resolveColours(new XMLSerializer().serializeToString(outer.node())), ...size};
};

// Words in lines of at most n characters.
sl.wrapped = (text, n) => text.split(/\s+/).reduce((lines, word) => {
  const last = lines.length - 1;
  if (last >= 0 && lines[last].length + word.length < n) lines[last] += " " + word;
  else lines.push(word);
  return lines;
}, []);

sl.svgToCanvas = async drawn => {
  const image = new Image(), scale = 2;
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(drawn.text);
  await image.decode();
  const canvas = sl.el("canvas", {width: drawn.width * scale, height: drawn.height * scale});
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
};

// The same frame for a picture: title above, captions below.
sl.framed = (picture, {title, lines}) => {
  const margin = 16, row = 22, width = Math.max(picture.width, 480), wrapped = lines.flatMap(line => sl.wrapped(line, width / 8));
  const canvas = sl.el("canvas", {width: width + 2 * margin, height: picture.height + 2 * margin + 30 + row * wrapped.length});
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
  context.fillStyle = colour("--surface");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, margin, margin + 26);
  context.fillStyle = colour("--ink");
  context.font = "600 18px system-ui, sans-serif";
  context.fillText(title, margin, margin + 14);
  context.font = "15px system-ui, sans-serif";
  wrapped.forEach((line, i) => context.fillText(line, margin, margin + 26 + picture.height + row * (i + 1)));
  return canvas;
};

// options: name (of files), title, read, not (strings), table () => {head, rows}, wide, canvas () => canvas.
// Returns {figure, body}; the chart goes into body.
sl.figure = (parent, options) => {
  const {el} = sl;
  const body = el("div", {class: "body"});
  const tools = el("span", {class: "tools"});
  const button = (label, action) => tools.append(el("button", {type: "button", class: "quiet", "aria-label":
    `Download “${options.title}” as ${label}`, onclick: action}, label));
  const drawn = () => sl.svgText(body.querySelector("svg"), sl.surroundings(figure));
  const asPng = async () => {
    const picture = options.canvas && options.canvas();
    const canvas = options.canvas ? picture && sl.framed(picture, sl.surroundings(figure)) : await sl.svgToCanvas(drawn());
    if (canvas) canvas.toBlob(blob => sl.save(blob, options.name + ".png"), "image/png");
  };
  if (!options.canvas) button("SVG", () => sl.save(new Blob([drawn().text], {type: "image/svg+xml"}), options.name + ".svg"));
  button("PNG", asPng);
  const heading = `figure-${options.name}-title`;
  const figure = el("figure", {class: "figure" + (options.wide ? " wide" : ""), id: "figure-" + options.name, "aria-labelledby": heading},
    el("div", {class: "head"}, el("h3", {id: heading}, options.title), tools), body);
  if (options.read || options.not) {
    figure.append(el("figcaption", {class: "words"},
      options.read ? el("p", {}, el("b", {}, "How to read it. "), options.read) : null,
      options.not ? el("p", {}, el("b", {}, "What it does not show. "), options.not) : null));
  }
  if (options.table) figure.append(sl.table(options.table, options.title));
  parent.append(figure);
  return {figure, body};
};

// The numbers behind a figure; built when opened, and again when the selection has changed.
sl.table = (make, title) => {
  const {el} = sl;
  const holder = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": title ? `Numbers of “${title}”` : "Table"});
  const details = el("details", {class: "numbers"}, el("summary", {"aria-label": title ? `Numbers of “${title}”` : null}, "Numbers"), holder);
  const fill = () => {
    if (!details.open) return;
    const {head, rows} = make();
    holder.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, head.map(name => el("th", {scope: "col"}, name)))),
      el("tbody", {}, rows.map(row => el("tr", {}, row.map((cell, i) =>
        i === 0 ? el("th", {scope: "row"}, String(cell)) : el("td", {}, String(cell))))))));
  };
  details.addEventListener("toggle", fill);
  sl.on("query kind map split likeness studyMap", fill);
  return details;
};

// Radio buttons that look like one control. choices: [{value, label}].
sl.radios = (legend, name, choices, value, change) => {
  const {el} = sl;
  return el("fieldset", {class: "radios"}, el("legend", {}, legend), el("span", {class: "set"}, choices.map(choice => {
    const input = el("input", {type: "radio", name, value: choice.value, onchange: () => change(choice.value)});
    input.checked = choice.value === value;
    return el("label", {}, input, el("span", {}, choice.label));
  })));
};
sl.choose = (fieldset, value) => {
  for (const input of fieldset.querySelectorAll("input")) input.checked = input.value === String(value);
};

sl.select = (label, choices, value, change) => {
  const {el} = sl;
  const select = el("select", {onchange: () => change(Number(select.value))},
    choices.map(choice => el("option", {value: choice.value, selected: choice.value === value}, choice.label)));
  return el("label", {class: "field"}, el("span", {}, label), select);
};

sl.slider = (label, min, max, step, value, change) => {
  const {el} = sl;
  const output = el("output", {});
  const input = el("input", {type: "range", min, max, step, value, "aria-label": label, oninput: () => change(Number(input.value))});
  return {field: el("label", {class: "field slider"}, el("span", {}, label, " ", output), input), input, output};
};

// One tooltip for the page. lines: strings, the first one bold.
sl.tip = (() => {
  const tip = document.getElementById("tip");
  const place = (x, y) => {
    const box = tip.getBoundingClientRect(), margin = 12;
    const left = Math.min(Math.max(4, x + margin), document.documentElement.clientWidth - box.width - 4);
    const top = y + margin + box.height > innerHeight ? y - box.height - margin : y + margin;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  };
  const fill = lines => {
    tip.replaceChildren(...lines.filter(line => line).map((line, i) => sl.el(i ? "div" : "b", {}, line)));
    tip.hidden = false;
  };
  document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, {passive: true, capture: true});
  return {
    at(event, lines) { fill(lines); place(event.clientX, event.clientY); },
    on(svg, lines, x, y) { // at a place of a drawing
      fill(lines);
      const box = svg.getBoundingClientRect();
      place(box.left + x, box.top + y);
    },
    hide() { tip.hidden = true; },
  };
})();

// Redraws when the width changes; draw(width) empties and fills the element itself.
sl.responsive = (element, draw) => {
  let last = 0;
  // What is drawn anew keeps the keyboard's place.
  const drawAt = width => {
    const places = () => [...element.querySelectorAll("[tabindex]")], at = places().indexOf(document.activeElement);
    draw(width);
    if (at >= 0 && places()[at]) places()[at].focus({preventScroll: true});
  };
  const redraw = () => { if (last > 0) drawAt(last); };
  new ResizeObserver(entries => {
    const width = Math.floor(entries[0].contentRect.width);
    if (width > 0 && width !== last) { last = width; redraw(); }
  }).observe(element);
  last = Math.floor(element.getBoundingClientRect().width);
  redraw();
  // On paper a chart is drawn for the paper's width, so that its text keeps its size; grids have two columns there.
  addEventListener("beforeprint", () => {
    const figure = element.closest(".figure"), page = 690, gap = 13;
    if (last <= 0 || !figure) return;
    const room = element.closest(".grid") && !figure.classList.contains("wide") ? (page - gap) / 2 : page;
    drawAt(Math.floor(last * room / figure.offsetWidth));
  });
  addEventListener("afterprint", redraw);
  return redraw;
};
