// Builds the page: one section per view, in the order of the section table.
"use strict";

(async () => {
  const {el, data, facts, state} = sl, main = document.getElementById("main"), contents = document.getElementById("contents");

  // Dark or light: the system's choice until the button is used.
  const theme = document.getElementById("theme"), prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : prefersDark.matches;
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-pressed", String(isDark()));
    theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  await sl.maps.prepare();

  // Start where there is something to see: the layer whose CAM is strongest, else where attention on the image is.
  const mass = sl.tensor("cam.mass"), share = sl.tensor("flow.share"), layers = d3.range(facts.nLayer);
  const strength = il => mass ? (facts.isDefined(il) ? mass.values[il] : -1) : share ? share.at(il, 0, 1) : 0;
  state.layer = layers.length ? layers.reduce((best, il) => strength(il) > strength(best) ? il : best, 0) : 0;
  const heads = sl.tensor("flow.share_heads");
  if (heads) state.head = d3.range(facts.nHead).reduce((best, h) => heads.at(state.layer, h, 0, 1) > heads.at(state.layer, best, 0, 1) ? h : best, 0);

  for (const [name, title] of data.sections) {
    const section = el("section", {id: name, "aria-labelledby": title ? "title-" + name : null}, title ? el("h2", {id: "title-" + name}, title) : null);
    main.append(section); // before building: figures measure their width
    if (sl.views.get(name)(section) === false) section.remove();
    else if (title) contents.append(el("a", {href: "#" + name}, {tokens: "Tokens", flow: "Attention", cam: "CAM", converge: "Convergence", cliff: "Cliff", knockout: "Knockout",
      lens: "Lens", heads: "Heads", token_scores: "Token scores", compare: "Comparison", run: "Run", accuracy: "Accuracy", curves: "Layers", cliffs: "Cliff", mean_heads: "Heads",
      failures: "Failures", made: "Study", eval_numbers: "Numbers",
      eval_curve: "Cliff", eval_answers: "Answers", eval_failures: "Failures", eval_made: "Evaluation"}[name] || title));
  }
  document.getElementById("footer").append(el("p", {}, `Made by sightline ${data.run.sightline ?? ""}. One file, no network: it can be sent and kept as it is. Figures drawn with D3.`));
  document.documentElement.dataset.ready = "true";
})();
