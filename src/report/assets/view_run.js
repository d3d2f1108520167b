// How the run was made: the command, the model, the picture, the machine, warnings.
"use strict";

sl.view("run", section => {
  const {el, run} = sl, compared = run.prompt ? null : (run.analyses || {}).compare, model = run.model || {}, compute = run.compute || {}, image = run.image || {};
  // Single quotes for a POSIX shell.
  const quote = word => /^[A-Za-z0-9_./:=,@%+-]+$/.test(word) ? word : "'" + String(word).replace(/'/g, "'\\''") + "'";
  const warnings = Array.isArray(run.warnings) ? run.warnings : [];
  if (warnings.length > 0) section.append(el("div", {class: "notice", role: "note"}, el("p", {class: "strong"}, warnings.length === 1 ? "One warning" : `${warnings.length} warnings`), el("ul", {}, warnings.map(text => el("li", {}, String(text))))));

  function copyable(id, title, text, note) {
    const code = el("pre", {id, tabindex: "0"}, text), button = el("button", {type: "button", class: "quiet"}, "Copy");
    button.addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch (error) { // file:// pages may not have the clipboard: select the text, so that Ctrl+C works
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2500);
    });
    section.append(el("div", {class: "copyable"}, el("div", {class: "head"}, el("h3", {}, title), button), code, note ? el("p", {class: "caption"}, note) : null));
  }
  const command = (Array.isArray(run.command) ? run.command : []).map(String);
  // The program takes an option's name cut short too, down to `least`.
  const has = (name, least) => command.some(word => word.startsWith(least) && name.startsWith(word.split("=")[0]));
  // A model that came from the environment or by default is named: both may differ where the command is run again. A
  // comparison reads run directories and takes no model.
  const modelWords = compared || has("--model", "--mo") || !model.path ? [] : ["--model", String(model.path)];
  const whole = [...command.slice(0, 2), ...modelWords, ...command.slice(2)];
  if (command.length > 0) {
    copyable("command", "The command that reproduces it", whole.map(quote).join(" "),
      has("--force", "--f") ? null : "Where this run directory still exists, add --force to overwrite it.");
  }

  const bytes = value => sl.isNumber(value) ? `${sl.number(value / 1048576)} MiB` : null;
  const time = ms => !sl.isNumber(ms) ? sl.dash : ms < 1000 ? `${Math.round(ms)} ms` : ms < 120000 ? `${sl.number(ms / 1000)} s` : `${sl.number(ms / 60000)} min`;
  const list = (title, entries, wide) => {
    const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return shown.length === 0 ? null : el("div", {class: wide ? "facts wide" : "facts"}, el("h3", {}, title), el("dl", {}, shown.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
  };
  const vision = model.vision || {}, options = run.options || {};
  section.append(el("div", {class: "grid three"},
    list("Model", [["name", model.name], ["family", model.family], ["folder", model.path], ["content hash", model.hash], ["layers", model.n_layer], ["heads", model.n_head_kv !== undefined && model.n_head_kv !== model.n_head ? `${model.n_head} (${model.n_head_kv} for keys and values)` : model.n_head],
      ["width", model.d_model], ["width of a head", model.d_head], ["vocabulary", model.n_vocab], ["vision tower", vision.n_layer ? `${vision.n_layer} layers of ${vision.n_head} heads, width ${vision.d_model}, patches of ${vision.patch_px} px` : null]]),
    compared ? list("Comparison", [["runs", (compared.runs || []).length], ["classes", (compared.classes || []).join(", ")], ["appearances", (compared.appearances || []).join(", ")], ["seed", run.seed]])
      : list("Picture and prompt", [["file", image.path], ["content hash", image.hash], ["size", image.width_px ? `${image.width_px} × ${image.height_px} px` : null], ["object mask", image.mask], ["image tokens", run.grid && run.grid.height > 0 ? `${run.grid.height} × ${run.grid.width}` : sl.facts.nPatch],
      ["positions", sl.facts.tokens.length || null], ["answer", (run.prompt || {}).answer_source], ["seed", run.seed]]),
    list("Computation", [["sightline", run.sightline], ["backend", compute.backend], ["mode", compute.mode], ["products", compute.products], ["threads", compute.threads], ["peak memory", bytes(run.peak_memory_bytes)],
      ...Object.entries(run.timings_ms || {}).map(([name, ms]) => ["time: " + name.replace(/_/g, " "), time(ms)])]),
    // The analyses' own options are objects inside: "cam" {"site": ..} becomes "cam site".
    list("Options", Object.entries(options).flatMap(([name, value]) => value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([inner, own]) => [`${name} ${inner}`, own]) : [[name, value]])
      .map(([name, value]) => [name, value !== null && typeof value === "object" ? JSON.stringify(value) : value]), true)));
  section.append(el("details", {class: "numbers"}, el("summary", {}, "The whole run.json"), el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "run.json"}, el("pre", {id: "run-json"}))),
    el("p", {}, el("button", {type: "button", onclick: () => sl.save(new Blob([JSON.stringify(run, null, 1)], {type: "application/json"}), "run.json")}, "Download run.json")));
  section.querySelector("details").addEventListener("toggle", event => { if (event.target.open) section.querySelector("#run-json").textContent = JSON.stringify(run, null, 1); });
  return true;
});
