"""Checks of the page that compares runs. Used by test_page.py."""

import re

# Colour of the matrix' cell (row, column), and what the colour map has for the likeness there.
CELL = """((r, c) => { const canvas = document.getElementById('likeness-canvas'), n = sl.run.analyses.compare.runs.length, cell = canvas.width / n;
  return Array.from(canvas.getContext('2d').getImageData((c + 0.5) * cell, (r + 0.5) * cell, 1, 1).data).slice(0, 3); })"""


def check_comparison(check):
    run, settle = check.chrome.run, check.chrome.settle
    stored = run("Boolean(sl.data.tensors['compare.cosine'])")
    check.that(check.has("#likeness-canvas") == stored, "#likeness-canvas is there exactly when compare.cosine is")
    if not stored:
        return
    n = run("sl.run.analyses.compare.runs.length")
    if run("Boolean(sl.run.study)"):
        check.that("%d examples" % n in run("document.querySelector('#compare .lead').textContent"), "the lead counts the examples that are compared")
    else:
        check.that(run("document.querySelector('h1').textContent").startswith("%d runs" % n), "the headline counts the runs")
    check.that(not check.has("#picture"), "a comparison shows no picture of its own")
    check_matrix(check, n)
    check_pairs(check, n)
    before = [run("document.querySelector('%s').innerHTML" % where) for where in ("#figure-compare_pairs svg", "#figure-compare_tests .tests")]
    picture = run("document.getElementById('likeness-canvas').toDataURL()")
    run("document.querySelectorAll('#compare .radios input')[1].click()")
    settle()
    check.that(run("document.getElementById('likeness-canvas').toDataURL()") != picture, "another likeness changes the matrix")
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
    check.that(all(run("%s(%d, %d)" % (CELL, i, i)) == run("sl.maps.colour(1).match(/\\d+/g).map(Number)") for i in (0, n - 1)), "a run is as alike to itself as can be")
    brighter = "((a, b) => a[0] + 2 * a[1] > b[0] + 2 * b[1])"
    off = run("(() => { const o = sl.tensor('compare.order').values, v = sl.tensor('compare.cosine'), all = [];"
              "o.forEach((i, r) => o.forEach((j, c) => { if (r !== c) all.push([v.at(i, j), r, c]); })); all.sort((a, b) => a[0] - b[0]); return [all[0], all[all.length - 1]]; })()")
    check.that(run("%s(%s(%d, %d), %s(%d, %d))" % (brighter, CELL, off[1][1], off[1][2], CELL, off[0][1], off[0][2])), "the most alike pair is brighter than the least alike")
    run("(() => { const c = document.getElementById('likeness-canvas'), b = c.getBoundingClientRect(), cell = b.width / %d;"
        "c.dispatchEvent(new MouseEvent('mousemove', {clientX: b.left + (%d + 0.5) * cell, clientY: b.top + (%d + 0.5) * cell})); })()" % (n, off[1][2], off[1][1]))
    tip = run("document.getElementById('tip').textContent")
    check.that(run("sl.fixed(%r, 3)" % off[1][0]) in tip, "the pointer tells a cell's likeness")
    names = run("[%d, %d].map(k => { const one = sl.run.analyses.compare.runs[sl.tensor('compare.order').values[k]]; return one.class; })" % (off[1][1], off[1][2]))
    check.that(all(name is None or name in tip for name in names), "and its two runs")
    run("document.getElementById('likeness-canvas').dispatchEvent(new MouseEvent('mouseleave'))")


def check_pairs(check, n):
    words = check.chrome.run("document.querySelector('#figure-compare_pairs .key').textContent")
    counted = [int(number) for number in re.findall(r"(\d+) pairs", words)]
    check.that(sum(counted) == n * (n - 1) // 2, "every pair of two runs is counted once: %s" % counted)
    ceiling = check.chrome.run("sl.run.analyses.compare.cosine.ceiling")
    check.that(ceiling is None or check.chrome.run("sl.fixed(%r, 2)" % ceiling) in check.chrome.run("document.querySelector('#figure-compare_pairs svg').textContent"), "the ceiling is marked")


def check_verdicts(check):
    """A difference is called clear when p is under 5 % and it is above 0, and only then."""
    run = check.chrome.run
    told = run("sl.run.analyses.compare.cosine")
    lines = run("[...document.querySelectorAll('#figure-compare_tests .tests li')].map(e => e.textContent)")
    named = [key for key in ("class", "appearance", "semantics") if (told.get(key) or {}).get("value") is not None]
    check.that(len(lines) >= max(1, len(named)), "a line for every test")
    for key, line in zip(named, lines):
        clear = told[key].get("p") is not None and told[key]["p"] < 0.05 and told[key]["value"] > 0
        check.that(("not clearly" in line) == (not clear), "%s: %s" % (key, line))
    intervals = run("[...document.querySelectorAll('#figure-compare_tests .interval svg')].map(svg => svg.querySelectorAll('line').length)")
    partial = [value for value in (told.get("partial") or {}).values() if value and value.get("value") is not None]
    expected = [2 if t.get("low") is not None and t.get("high") is not None else 1 for t in [told[key] for key in named] + partial]
    check.that(intervals == expected, "an interval is drawn where there is one")


CHECKS = (check_comparison,)
