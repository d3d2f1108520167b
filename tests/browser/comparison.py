"""Checks of the page that compares runs. Used by test_page.py."""

import re

# Colours of the matrix' cells in a saved picture: the pixel in the middle of each.
PAINT = """(async () => { const svg = document.getElementById('likeness-map'), area = svg.querySelector('[data-cells]').getBBox(), n = sl.run.analyses.compare.runs.length;
  const saved = sl.svgText(svg, {title: '', lines: [], entries: []}), canvas = await sl.svgToCanvas(saved), scale = canvas.width / saved.width, cell = area.width / n;
  const drawing = new DOMParser().parseFromString(saved.text, 'image/svg+xml').querySelector('[data-drawing]'), [x0, y0] = ['x', 'y'].map(k => Number(drawing.getAttribute(k)));
  const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, at = (start, k) => Math.floor((start + (k + 0.5) * cell) * scale);
  window.cellColour = (r, c) => { const from = (at(y0 + area.y, r) * canvas.width + at(x0 + area.x, c)) * 4; return Array.from(all.slice(from, from + 3)); };
  return [canvas.width, canvas.height]; })()"""
CELL = "cellColour"
MATRIX = "document.getElementById('likeness-map').outerHTML"


def check_comparison(check):
    run, settle = check.chrome.run, check.chrome.settle
    stored = run("Boolean(sl.data.tensors['compare.cosine'])")
    check.that(check.has("#likeness-map") == stored, "#likeness-map is there exactly when compare.cosine is")
    if not stored:
        return
    n = run("sl.run.analyses.compare.runs.length")
    if run("Boolean(sl.run.study)"):
        check.that("%d examples" % n in run("document.querySelector('#compare .lead').textContent"), "the lead counts the examples that are compared")
    else:
        check.that(run("document.querySelector('h1').textContent").startswith("%d runs" % n), "the headline counts the runs")
        check.that(run("document.title") == "Comparison of %d runs \u00b7 sightline" % n, "and so does the title")
        check.that(run("[...document.querySelectorAll('#run h3')].map(e => e.textContent)")[-3:] == ["Model", "Comparison", "Computation"], "a comparison has no picture and no prompt")
    check.that(not check.has("#picture"), "a comparison shows no picture of its own")
    check_matrix(check, n)
    check_names(check, n)
    check_noise(check)
    check_pairs(check, n)
    before = [run("document.querySelector('%s').innerHTML" % where) for where in ("#figure-compare_pairs svg", "#figure-compare_tests .tests")]
    picture = run(MATRIX)
    run("document.querySelectorAll('#compare .radios input')[1].click()")
    settle()
    check.that(run(MATRIX) != picture, "another likeness changes the matrix")
    after = [run("document.querySelector('%s').innerHTML" % where) for where in ("#figure-compare_pairs svg", "#figure-compare_tests .tests")]
    check.that(after[0] != before[0], "and the pairs")
    run("document.querySelectorAll('#compare .radios input')[0].click()")
    settle()
    check_verdicts(check)
    classes = run("sl.run.analyses.compare.classes.length")
    if check.has("#figure-compare_class_0"):
        check.that(run("document.querySelectorAll('[id^=figure-compare_class_] svg[tabindex]').length") == classes, "mean scores of every class")
        check.that(run("sl.run.analyses.compare.classes.every((name, c) => document.querySelector(`#figure-compare_class_${c} h3`).textContent.startsWith(name))"), "under the classes' names, word for word")


def check_matrix(check, n):
    """Cells are in compare.order, on the page's colour map, and the pointer names both runs."""
    run = check.chrome.run
    run(PAINT)
    check.that(all(run("%s(%d, %d)" % (CELL, i, i)) == run("sl.maps.colour(1).match(/\\d+/g).map(Number)") for i in (0, n - 1)), "a run is as alike to itself as can be")
    brighter = "((a, b) => a[0] + 2 * a[1] > b[0] + 2 * b[1])"
    off = run("(() => { const o = sl.tensor('compare.order').values, v = sl.tensor('compare.cosine'), all = [];"
              "o.forEach((i, r) => o.forEach((j, c) => { if (r !== c) all.push([v.at(i, j), r, c]); })); all.sort((a, b) => a[0] - b[0]); return [all[0], all[all.length - 1]]; })()")
    check.that(off[0][0] == off[1][0] or run("%s(%s(%d, %d), %s(%d, %d))" % (brighter, CELL, off[1][1], off[1][2], CELL, off[0][1], off[0][2])), "the most alike pair is brighter than the least alike")
    run("(() => { const c = document.querySelector('#likeness-map [data-cells]'), b = c.getBoundingClientRect(), cell = b.width / %d;"
        "c.dispatchEvent(new MouseEvent('mousemove', {clientX: b.left + (%d + 0.5) * cell, clientY: b.top + (%d + 0.5) * cell})); })()" % (n, off[1][2], off[1][1]))
    tip = run("document.getElementById('tip').textContent")
    check.that(run("sl.fixed(%r, 3)" % off[1][0]) in tip, "the pointer tells a cell's likeness")
    names = run("[%d, %d].map(k => { const one = sl.run.analyses.compare.runs[sl.tensor('compare.order').values[k]]; return one.class; })" % (off[1][1], off[1][2]))
    check.that(all(name is None or name in tip for name in names), "and its two runs")
    run("document.querySelector('#likeness-map [data-cells]').dispatchEvent(new MouseEvent('mouseleave'))")


def check_names(check, n):
    """Rows and columns are numbered and named, the arrow keys read the cells, and the table has every value or each run's most alike."""
    run, order = check.chrome.run, check.chrome.run("Array.from(sl.tensor('compare.order').values)")
    runs = [run("sl.run.analyses.compare.runs[%d].dir" % i).rstrip("/").split("/")[-1] for i in order]
    texts = run("[...document.querySelectorAll('#likeness-map text')].map(e => e.textContent)")
    check.that("1" in texts and str(n) in texts, "columns are numbered")
    words = run("document.getElementById('likeness-key').hidden") and " ".join(texts).replace(" \u00b7 ", " ") or run("document.getElementById('likeness-key').textContent.replace(/\\s+/g, ' ')")
    check.that(all("%d %s" % (r + 1, name) in words for r, name in enumerate(runs)), "every number has its name")
    run("document.getElementById('likeness-map').focus()")
    check.chrome.key("ArrowDown", 40)
    check.chrome.key("ArrowRight", 39)
    check.chrome.key("ArrowRight", 39)
    cell = (1, min(3, n - 1))
    like = run("sl.fixed(sl.tensor('compare.cosine').at(%d, %d), 3)" % tuple(order[k] for k in cell))
    for what in ("likeness-cell", "say"):
        text = run("document.getElementById('%s').textContent" % what)
        check.that(all(part in text for part in (like, "row 2, " + runs[1], "column %d, %s" % (cell[1] + 1, runs[cell[1]]))), "arrow keys read a cell: %s" % text)
    run("document.querySelector('#figure-compare_matrix details').open = true")
    check.chrome.settle()
    rows = run("[...document.querySelectorAll('#figure-compare_matrix tbody tr')].map(tr => [...tr.children].map(e => e.textContent))")
    wide = n + 1 if n <= 60 else 3
    check.that(len(rows) == n and all(len(row) == wide for row in rows), "the table has %d columns" % wide)
    check.that(n > 60 or rows[cell[0]][cell[1] + 1] == like, "with every value")
    run("document.querySelector('#figure-compare_matrix details').open = false")


def check_noise(check):
    """What is said of noise agrees with the warning, and nothing is compared with a ceiling that is not there."""
    run = check.chrome.run
    ceiling = run("['cosine', 'spearman', 'jaccard'].some(key => sl.isNumber(sl.run.analyses.compare[key].ceiling ?? sl.run.analyses.compare[key].split_half))")
    texts = run("['matrix', 'pairs', 'tests'].map(key => document.querySelector('#figure-compare_' + key + ' figcaption').textContent)")
    check.that(["ceiling" in text for text in texts] == [ceiling] * 3, "the ceiling is told of where there is one")
    seeds = run("(sl.run.warnings || []).some(text => text.includes('share a seed'))")
    check.that(("one seed" in texts[0]) == seeds, "runs of one seed are told of")
    label = run("sl.run.study && sl.run.study.groups.length > 1 ? sl.run.study.groups[1].label : null")
    lead = run("document.querySelector('#compare .lead').textContent")
    check.that(not run("sl.run.analyses.compare.classes.length") or ("label “%s”" % label if label else "what the command calls them") in lead, "where the classes come from is told")


def check_pairs(check, n):
    words = check.chrome.run("document.querySelector('#figure-compare_pairs .key').textContent")
    counted = [int(number) for number in re.findall(r"(\d+) pair", words)]
    check.that(sum(counted) == n * (n - 1) // 2, "every pair of two runs is counted once: %s" % counted)
    ceiling = check.chrome.run("sl.run.analyses.compare.cosine.ceiling")
    check.that(ceiling is None or check.chrome.run("sl.fixed(%r, 2)" % ceiling) in check.chrome.run("document.querySelector('#figure-compare_pairs svg').textContent"), "the ceiling is marked")


def check_verdicts(check):
    """A difference is called clear when p is under 5 % and it is above 0, and only then."""
    run = check.chrome.run
    told = run("sl.run.analyses.compare.cosine")
    lines = run("[...document.querySelectorAll('#figure-compare_tests .tests li:not(.axis)')].map(e => e.textContent)")
    named = [key for key in ("class", "appearance", "semantics") if (told.get(key) or {}).get("value") is not None]
    check.that(len(lines) >= max(1, len(named)), "a line for every test")
    for key, line in zip(named, lines):
        clear = told[key].get("p") is not None and told[key]["p"] < 0.05 and told[key]["value"] > 0
        check.that(("not clearly" in line) == (not clear), "%s: %s" % (key, line))
    intervals = run("[...document.querySelectorAll('#figure-compare_tests li:not(.axis) .interval svg')].map(svg => svg.querySelectorAll('line').length)")
    partial = [value for value in (told.get("partial") or {}).values() if value and value.get("value") is not None]
    expected = [2 if t.get("low") is not None and t.get("high") is not None else 1 for t in [told[key] for key in named] + partial]
    check.that(intervals == expected, "an interval is drawn where there is one")
    check.that(["No interval: too few" in line for line in lines[:len(expected)]] == [number == 1 for number in expected], "and its absence is told")
    ticks = run("[...document.querySelectorAll('#figure-compare_tests li.axis text')].map(e => e.textContent)")
    check.that(not expected or "0" in ticks and len(ticks) >= 3, "the intervals have an axis: %s" % ticks)
    check.that(("partial" in run("document.querySelector('#figure-compare_tests figcaption').textContent")) == bool(partial), "partial correlations are called so")


CHECKS = (check_comparison,)
