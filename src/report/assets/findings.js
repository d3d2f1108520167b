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
      const most = d3.max(image.slice(cliff)), limit = most < facts.cliffShare ? "less than " + percent(facts.cliffShare) : "at most " + percent(most);
      out.push({text: `From layer ${cliff} on, ${limit} of the attention of the position that predicts ${word} is on the image; `
        + `in layer ${peak} it is ${percent(image[peak])}, its highest. The last layer gives it ${percent(last)}.`});
    } else if (cliff === 0) {
      out.push({text: `In no layer does the position that predicts ${word} put more than ${percent(image[peak])} of its attention on the image (layer ${peak}).`});
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
      const object = stats ? d3.range(facts.nLayer).map(il => facts.isDefined(il) ? stats.at(il, 2) : NaN) : [], on = best(object);
      if (layersOf(object).length > 0) {
        text += ` Its map lies most on the marked object in layer ${on}: ${percent(object[on])} of the map’s weight`;
        text += isNumber(facts.objectShare) ? `, where an even spread would put ${percent(facts.objectShare)}.` : ".";
      }
      out.push({text});
    }
  }

  const rho = tensor("cam.flow_correlation");
  if (rho) {
    const high = best(rho.values), low = best(rho.values.map(value => -value));
    if (layersOf(rho.values).length > 1) {
      const top = rho.values[high], where = `layer ${high} (Spearman’s ρ ${fixed(top, 2)})`;
      out.push({text: top < 0.3 ? `Attention and CAM do not agree on which image tokens come first: their rank correlation is highest in ${where}.`
        : `Attention and CAM agree best on which image tokens come first in ${where} and least in layer ${low} (${fixed(rho.values[low], 2)}).`});
    }
  }
  return out;
};
