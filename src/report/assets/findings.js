// Two or three sentences from this run's numbers. Each says what was measured; none says more than the numbers.
"use strict";

sl.findings = () => {
  const {facts, tensor, percent, fixed, isNumber} = sl, out = [];
  const layersOf = values => d3.range(values.length).filter(il => isNumber(values[il]));
  const best = values => d3.scan(Array.from(values), (a, b) => (isNumber(b) ? b : -Infinity) - (isNumber(a) ? a : -Infinity));
  const word = "“" + sl.word(facts.predicted(0)) + "”";

  const share = tensor("flow.share");
  if (share && facts.nLayer > 1) {
    const image = d3.range(facts.nLayer).map(il => share.at(il, 0, 1)), cliff = facts.attentionCliff, peak = best(image);
    const last = image[facts.nLayer - 1];
    if (cliff !== null && cliff > 0) {
      const most = d3.max(image.slice(cliff)), limit = most < facts.cliffShare ? "less than " + percent(facts.cliffShare) : "at most "
        + percent(most);
      out.push({text: `From layer ${cliff} on, ${limit} of the attention of the position that predicts ${word} is on the image; `
        + `in layer ${peak} it is ${percent(image[peak])}, its highest. The last layer gives it ${percent(last)}.`});
    } else if (cliff === 0) {
      out.push({text: `In no layer does the position that predicts ${word} put more than ${percent(image[peak])} of its attention on the `
        + `image (layer ${peak}).`});
    } else {
      out.push({text: `The position that predicts ${word} never turns from the image for good: its share of attention is highest in `
        + `layer ${peak} (${percent(image[peak])}) and ${percent(last)} in the last layer.`});
    }
  }

  const mass = tensor("cam.mass"), stats = tensor("cam.stats");
  if (mass) {
    const values = d3.range(facts.nLayer).map(il => facts.isDefined(il) ? mass.values[il] : NaN), peak = best(values);
    if (layersOf(values).length > 0 && values[peak] > 0) {
      let text = `The answer’s sensitivity to image features (LLaVA-CAM) is largest in layer ${peak}`;
      const after = facts.camCliff !== null && facts.camCliff > peak ? d3.max(values.slice(facts.camCliff)) / values[peak] : NaN;
      text += !isNumber(after) ? "." : ` and ${after < facts.cliffMass ? `under ${percent(facts.cliffMass)}` : `at most ${percent(after)}`} of that from layer ${facts.camCliff} on.`;
      const object = stats ? stats.at(peak, 2) : NaN;
      if (isNumber(object)) {
        text += ` There ${percent(object)} of the map’s weight lies on the marked object`;
        text += isNumber(facts.objectShare) ? `; an even spread would put ${percent(facts.objectShare)} there.` : ".";
      }
      out.push({text});
    }
  }

  const rho = tensor("cam.flow_correlation");
  if (rho) { // where the map is next to nothing, its order of tokens says nothing
    const strongest = mass ? d3.max(d3.range(facts.nLayer).filter(facts.isDefined), il => mass.values[il]) : NaN;
    const told = Array.from(rho.values, (value, il) => mass && !(mass.values[il] >= facts.cliffMass * strongest) ? NaN : value);
    const high = best(told), low = best(told.map(value => -value));
    if (layersOf(told).length > 1) {
      const top = told[high], where = `layer ${high} (Spearman’s ρ ${fixed(top, 2)})`;
      out.push({text: top < 0.3 ? `Attention and CAM do not agree on which image tokens come first: their rank correlation is highest `
        + `in ${where}.`
        : `Attention and CAM agree best on which image tokens come first in ${where} and least in layer ${low} `
          + `(${fixed(told[low], 2)}).`});
    }
  }
  out.push(...sl.causalFindings(word));
  return out;
};

// The same for what was intervened on. word: the answer's first token, quoted.
sl.causalFindings = word => {
  const {facts, tensor, percent, fixed, isNumber} = sl, of = name => (sl.run.analyses || {})[name] || {}, out = [];
  const say = text => out.push({text});

  const cut = of("cliff"), value = tensor("cliff.logit");
  const measured = (key, whole) => facts.measured(String(of(key).target ?? "logit"), whole), first = facts.measured("probability", false);
  if (value && Number.isInteger(cut.layer) && cut.layer >= 0) {
    const last = value.shape[0] - 1, least = `${percent(isNumber(cut.eps) ? cut.eps : 0.05)} of the picture’s effect`;
    const hidden = cut.keep > 0 ? `With all but ${cut.keep} image tokens` : "With the image";
    say(cut.layer === 0 ? `${hidden} hidden from the first layer on, ${measured("cliff", cut.whole_answer)} loses no more than ${least}.`
      : cut.layer >= last ? `The image is used to the end: hidden in the last layer alone, ${measured("cliff", cut.whole_answer)} loses `
        + `more than ${least}.`
        : `${hidden} hidden from layer ${cut.layer} on, ${measured("cliff", cut.whole_answer)} loses no more than ${least}`
          + (isNumber(value.values[cut.layer - 1]) ? `; hidden from layer ${cut.layer - 1} on, it loses more.` : ": that is the first cut at which this ranking exists.")
          + (Number.isInteger(cut.answer_layer) && cut.answer_layer < cut.layer
            ? ` The words of the answer stay the same from layer ${cut.answer_layer} on.` : ""));
  }

  const change = tensor("knockout.change"), edges = Array.isArray(of("knockout").edges) ? of("knockout").edges : [];
  if (change && edges.length === change.shape[0]) {
    const worst = d3.scan(d3.range(edges.length), (a, b) => d3.min(change.at(a)) - d3.min(change.at(b))),
      values = Array.from(change.at(worst));
    const least = d3.scan(values, (a, b) => a - b);
    say(values[least] > -0.01 ? `No single way from the image to the answer, cut for a few layers, costs 1 % of ${first}.`
      : `Of the ways that were cut for a few layers, “${sl.edgeName(edges[worst])}” costs most: ${percent(-values[least])} of `
        + `${first}, around layer ${least}.`);
  }

  const lens = of("lens"), seen = tensor("lens.final_prob");
  if (seen && Number.isInteger(lens.decided)) {
    say(lens.decided >= seen.shape[0] - 1
      ? `Read out early, the final token never has ${word} as its lasting first choice before the last layer.`
      : `Read out early, the final token has ${word} as its first choice in what enters layer ${lens.decided} and from there on.`);
  }

  const enough = curves => {
    const [own, ...rivals] = curves && Array.isArray(curves.rankings) ? curves.rankings : [];
    return own && Number.isInteger(own.smallest_faithful) ? {own: own.smallest_faithful, share: percent(curves.enough),
      chance: (rivals.find(one => one.name === "random") || {}).smallest_faithful} : null;
  };
  const trust = regression => {
    const r = ((regression || {}).fit || {}).pearson;
    return !isNumber(r) ? "" : r < 0.5 ? ` But the scores predict held-out runs poorly (Pearson ${fixed(r, 2)}).`
      : ` The scores predict held-out runs with Pearson ${fixed(r, 2)}.`;
  };
  const score = tensor("heads.score");
  if (score) {
    const top = d3.scan(Array.from(score.values), (a, b) => b - a), few = enough(of("heads").curves), [nLayer, nHead] = score.shape;
    say((few ? `${few.own} of ${nLayer * nHead} heads ${few.own === 1 ? "gives" : "give"} back ${few.share} of the picture’s effect on `
      + `${measured("heads", of("heads").tokens > 1)}${Number.isInteger(few.chance) ? `; drawn at random it takes ${few.chance}` : ""}. ` : "")
      + `The head that adds most is head ${top % nHead} of layer ${Math.floor(top / nHead)}.` + trust(of("heads").regression));
  }

  const given = of("tokens").image, taken = of("tokens").text;
  if (given && tensor("tokens.image")) {
    const set = given.sufficient && Array.isArray(given.sufficient.image_positions) ? given.sufficient.image_positions.length : 0;
    const parts = [];
    if (set) parts.push(`${set} of ${tensor("tokens.image").values.length} image tokens ${set === 1 ? "is" : "are"} enough for nine tenths of the `
      + `picture’s effect`);
    if (isNumber(given.object_share)) parts.push(`${percent(given.object_share)} of what helps lies on the marked object, which has `
      + `${percent(given.object_patches)} of the patches`);
    if (parts.length) say(parts.join("; ") + "." + trust(given.regression));
  }
  if (taken && taken.share && tensor("tokens.text")) {
    const [key, share] = Object.entries(taken.share).reduce((a, b) => b[1] > a[1] ? b : a, ["", 0]);
    const called = {question: "the question’s positions take", role: "the role marker takes", final: "the final position takes",
      generated: "the answer’s earlier tokens take"}[key];
    if (called && share > 0) say(`On the text side ${called} ${percent(share)} of what helps.`);
  }
  return out;
};
