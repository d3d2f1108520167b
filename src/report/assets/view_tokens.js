// The prompt and the answer as tokens, coloured and marked by class. Answer tokens choose the query of all charts.
"use strict";

sl.view("tokens", section => {
  const {el, facts} = sl, tokens = facts.tokens;
  if (tokens.length === 0) return false;
  const names = Object.fromEntries(facts.classes.map(one => [one.key, one.name]));
  const detail = el("p", {class: "detail", id: "token-detail"}, "Point at a token, or move through them with the arrow keys.");

  const describe = (token, position) => {
    const lines = [`“${sl.visible(facts.text(token))}”`, `position ${position}, id ${token.id ?? "?"}, ${names[token.class] || token.class || "?"}${token.role ? ` (${token.role} token)` : ""}`];
    if (sl.isNumber(token.prob)) lines.push(`probability ${sl.percent(token.prob)}` + (sl.isNumber(token.logit) ? `, logit ${sl.number(token.logit)}` : "") + `, given by position ${position - 1}`);
    if (Array.isArray(token.top)) lines.push("most likely there: " + token.top.map(one => `${sl.visible(facts.text(one))} ${sl.percent(one.prob)}`).join(", "));
    return lines;
  };
  const queryOf = position => facts.queries.indexOf(position - 1);

  // A token that begins no word stands close to the one before. Pieces mark the beginning ("▁", "Ġ") where texts do not.
  const continues = token => /^\S/.test(facts.text(token)) && !/^[▁Ġ]/.test(String(token.piece ?? ""));
  const list = el("div", {class: "tokens", role: "group", "aria-label": "Tokens of prompt and answer"});
  const chips = [];
  const add = (first, last) => {
    const token = tokens[first], run = last > first, query = token.class === "generated" ? queryOf(first) : -1;
    const images = tokens.slice(first, last + 1).filter(one => one.class === "image").length, others = last - first + 1 - images;
    const counted = `${images} image tokens${others ? ` and ${others} of structure` : ""}`;
    const text = facts.text(token), label = run ? counted : sl.word(text) || "∅";
    const lines = run ? [label, `positions ${first} to ${last}; point at the picture to find one`] : describe(token, first);
    const chip = el("button", {type: "button", class: "token c-" + (names[token.class] ? token.class : "system") + (continues(token) && !run ? " joined" : ""), tabindex: "-1",
      "data-query": query >= 0 && query < facts.nQuery ? query : null, "aria-label": lines.join("; ")}, label);
    const show = () => { detail.textContent = lines.join(" · "); };
    chip.addEventListener("mousemove", event => { show(); sl.tip.at(event, lines); });
    chip.addEventListener("mouseleave", sl.tip.hide);
    chip.addEventListener("focus", () => { show(); settle(chips.indexOf(chip)); });
    if (chip.dataset.query !== undefined) {
      chip.addEventListener("click", () => { sl.set({query}); sl.say(`Charts now show the position that predicts ${label}`); });
    }
    chips.push(chip);
    list.append(chip);
  };
  // The ends of rows and the like stand between image tokens with the same text: they join the run.
  const inRun = (token, first) => token !== undefined && (token.class === "image" || (token.class === "structure" && facts.text(token) === facts.text(first)));
  for (let i = 0; i < tokens.length;) {
    let last = i;
    while (tokens[i].class === "image" && inRun(tokens[last + 1], tokens[i])) last++;
    add(i, last);
    i = last + 1;
  }
  // The one chip that Tab reaches: where the pointer or the arrow keys were last.
  let current = 0;
  function settle(i) {
    chips[current].tabIndex = -1;
    current = i;
    chips[current].tabIndex = 0;
  }
  settle(Math.max(0, chips.findIndex(chip => chip.dataset.query === "0")));
  list.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1, Home: -chips.length, End: chips.length}[event.key];
    if (!step) return;
    event.preventDefault();
    settle(Math.min(chips.length - 1, Math.max(0, current + step)));
    chips[current].focus();
  });
  const mark = () => chips.forEach(chip => {
    if (chip.dataset.query !== undefined) chip.setAttribute("aria-pressed", String(Number(chip.dataset.query) === sl.state.query));
  });
  mark();
  sl.on("query", mark);
  const used = facts.classes.filter(one => tokens.some(token => token.class === one.key));
  section.append(
    el("p", {class: "lead"}, "The text around the picture is cut into tokens; the picture becomes tokens too. ",
      facts.nQuery > 0 ? "Choose a token of the answer: the figures of attention then show the position that predicts it, one before, and CAM its own map where the run holds one for each token." : ""),
    el("p", {class: "key"}, used.map(one => el("span", {class: "token plain c-" + one.key}, one.name))), list, detail,
    el("details", {class: "numbers"}, el("summary", {}, "All tokens"), el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "All tokens"},
      el("table", {}, el("thead", {}, el("tr", {}, ["position", "id", "token", "class", "probability"].map(name => el("th", {scope: "col"}, name)))),
        el("tbody", {}, tokens.map((token, i) => token.class === "image" && i > 0 && tokens[i - 1].class === "image" ? null
          : el("tr", {}, el("th", {scope: "row"}, String(i)), el("td", {}, String(token.id ?? sl.dash)), el("td", {}, sl.visible(facts.text(token)) + (token.class === "image" ? " …" : "")),
            el("td", {}, (names[token.class] || "?") + (token.role ? `, ${token.role}` : "")), el("td", {}, sl.isNumber(token.prob) ? sl.percent(token.prob) : ""))))))));
  return true;
});
