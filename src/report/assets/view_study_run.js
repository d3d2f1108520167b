// What failed in a study, and how it was made: plan, hashes, times.
"use strict";

sl.view("failures", section => {
  const {el} = sl, {said, count, many} = sl.study;
  if (!said.failed) return false;
  const rest = said.failures.length < said.failed
    ? `; the first ${said.failures.length} are listed, the view “failure” of the database has all` : "";
  section.append(el("p", {class: "lead"}, `${count(said.failed)} of ${many(said.rows, "example")} failed${rest}.`),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Failures"}, el("table",
      {class: "tops failures"},
      el("thead", {}, el("tr", {}, ["line", "id", "error"].map(name => el("th", {scope: "col"}, name)))),
      el("tbody", {}, said.failures.map(one => el("tr", {}, el("td", {}, String(one.line)), el("td", {},
        one.id ?? sl.dash), el("td", {}, one.error ?? sl.dash)))))));
  return true;
});

sl.view("made", section => {
  const {el, number} = sl, {said, count} = sl.study, facts = said.facts, plan = said.plan;
  const list = (title, entries) => el("div", {class: "facts"}, el("h3", {}, title), el("dl", {}, entries.filter(([,
    value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
  const time = ms => ms < 1000 ? `${number(ms)} ms` : ms < 120000 ? `${number(ms / 1000)} s` : ms < 7200000
    ? `${number(ms / 60000)} min` : `${number(ms / 3600000)} h`;
  const total = said.timing.find(row => row.stage === "total");
  section.append(el("div", {class: "grid three"},
    list("Model", [["name", facts.model], ["folder", plan.model], ["vision tower", plan["vision-model"]],
      ["hash of weights", facts.model_hash], ["hash of settings", facts.model_files_hash], ["computed with",
      facts.compute]]),
    list("Data", [["file", plan.data], ["hash", facts.data_hash], ["pictures", plan.images], ["examples",
      count(said.rows)], ["shard", facts.shard === "0/1" ? null : facts.shard]]),
    list("Study", [["folder", said.dir], ["analyses", Object.keys(plan.analyses).join(", ") || "none"],
      ["hash of the plan", facts.plan_hash], ["seed", plan.seed], ["sightline", facts.sightline],
      ["time of all examples", total ? time(total.sum_ms) : null], ["mean time of one", total ? time(total.mean_ms)
        : null]])));
  if (said.timing.length > 0) {
    section.append(el("details", {class: "numbers"}, el("summary", {}, "Times by stage"), el("div", {class: "scroll",
      tabindex: "0", role: "region", "aria-label": "Times"}, el("table", {},
      el("thead", {}, el("tr", {}, ["stage", "examples", "mean", "sum"].map(name => el("th", {scope: "col"}, name)))),
      el("tbody", {}, said.timing.map(row => el("tr", {}, el("th", {scope: "row"}, row.stage.replace(/_/g, " ")),
        el("td", {}, count(row.n)), el("td", {}, time(row.mean_ms)), el("td", {}, time(row.sum_ms)))))))));
  }
  section.append(el("details", {class: "numbers"}, el("summary", {}, "The whole plan"), el("div", {class: "scroll",
    tabindex: "0", role: "region", "aria-label": "Plan"}, el("pre", {}, JSON.stringify(plan, null, 1)))));
  return true;
});
