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

sl.svgText = svg => {
  const copy = svg.cloneNode(true);
  const width = Number(svg.getAttribute("width")), height = Number(svg.getAttribute("height"));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("font-family", "system-ui, sans-serif");
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({width, height, style: "fill:var(--surface)"})) paper.setAttribute(key, value);
  copy.insertBefore(paper, copy.firstChild);
  copy.querySelectorAll("[data-cursor]").forEach(cursor => cursor.remove());
  return sl.resolveColours(new XMLSerializer().serializeToString(copy));
};

sl.svgToCanvas = async svg => {
  const image = new Image(), scale = 2;
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(sl.svgText(svg));
  await image.decode();
  const canvas = sl.el("canvas", {width: Number(svg.getAttribute("width")) * scale, height: Number(svg.getAttribute("height")) * scale});
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
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
  const asPng = async () => {
    const svg = body.querySelector("svg");
    const canvas = options.canvas ? options.canvas() : await sl.svgToCanvas(svg);
    if (canvas) canvas.toBlob(blob => sl.save(blob, options.name + ".png"), "image/png");
  };
  if (!options.canvas) {
    button("SVG", () => sl.save(new Blob([sl.svgText(body.querySelector("svg"))], {type: "image/svg+xml"}), options.name + ".svg"));
  }
  button("PNG", asPng);
  const figure = el("figure", {class: "figure" + (options.wide ? " wide" : ""), id: "figure-" + options.name},
    el("div", {class: "head"}, el("h3", {}, options.title), tools), body);
  if (options.read || options.not) {
    figure.append(el("figcaption", {class: "words"},
      options.read ? el("p", {}, el("b", {}, "How to read it. "), options.read) : null,
      options.not ? el("p", {}, el("b", {}, "What it does not show. "), options.not) : null));
  }
  if (options.table) figure.append(sl.table(options.table));
  parent.append(figure);
  return {figure, body};
};

// The numbers behind a figure; built when opened, and again when the selection has changed.
sl.table = make => {
  const {el} = sl;
  const holder = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Table"});
  const details = el("details", {class: "numbers"}, el("summary", {}, "Numbers"), holder);
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

// How a series of chart.lines is drawn, for a legend.
sl.lineKey = one => sl.el("i", {class: "line", style: `border-top-style:${one.dash ? "dashed" : "solid"};border-color:var(${one.colour})`});

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
  return {
    at(event, lines) { fill(lines); place(event.clientX, event.clientY); },
    on(element, lines) {
      fill(lines);
      const box = element.getBoundingClientRect();
      place(box.left, box.bottom - 6);
    },
    hide() { tip.hidden = true; },
  };
})();

// Redraws when the width changes; draw(width) empties and fills the element itself.
sl.responsive = (element, draw) => {
  let last = 0;
  const redraw = () => { if (last > 0) draw(last); };
  new ResizeObserver(entries => {
    const width = Math.floor(entries[0].contentRect.width);
    if (width > 0 && width !== last) { last = width; redraw(); }
  }).observe(element);
  last = Math.floor(element.getBoundingClientRect().width);
  redraw();
  return redraw;
};
