"""Checks of the sections on interventions: cliff, knockout, lens, heads, token scores. Used by test_page.py.

Each is told what the run holds by the page's own data, and looks at what a reader sees.
"""

PIXELS = "document.getElementById('%s').toDataURL()"


def present(check, tensor, selector):
    """The section is there exactly when its results are; whether there is something to check."""
    stored = check.chrome.run("Boolean(sl.data.tensors[%r])" % tensor)
    check.that(check.has(selector) == stored, "%s is there exactly when %s is" % (selector, tensor))
    return stored


def check_cliff(check):
    if not present(check, "cliff.logit", "#figure-cliff svg"):
        return
    run = check.chrome.run
    points = run("document.querySelectorAll('#figure-cliff svg > circle').length")
    check.that(points == run("sl.tensor('cliff.logit').values.filter(sl.isNumber).length"), "one point for every cut that exists")
    check.that(run("document.querySelector('#figure-cliff svg').textContent.includes('cliff layer')")
               == run("sl.run.analyses.cliff.layer !== null && sl.run.analyses.cliff.layer < sl.tensor('cliff.logit').values.length - 1"), "the cliff layer is marked")
    check.that(run("(() => { const a = sl.run.analyses.cliff.answer; const said = [...document.querySelectorAll('.answers li .said')].map(e => e.textContent);"
                   "return !a || said[said.length - 1] === a[a.length - 1]; })()"), "the last answer listed is the plain run's")
    check.that(run("[...document.querySelectorAll('.answers li')].filter(e => e.classList.contains('same')).every(e => e.querySelector('.said').textContent === "
                   "document.querySelector('.answers li:last-child .said').textContent)"), "framed answers are the plain one")


def check_knockout(check):
    if not present(check, "knockout.change", "#figure-knockout svg"):
        return
    run = check.chrome.run
    marked = run("[...document.querySelectorAll('#figure-knockout [data-centre]')].length")
    losing = run("sl.run.analyses.knockout.edges.filter((edge, e) => d3.min(sl.tensor('knockout.change').at(e)) <= -0.01 && sl.isNumber(edge.centroid)).length")
    check.that(marked == losing, "a centre is marked where the loss reaches 1 %% and nowhere else (%d of %d)" % (marked, losing))
    words = run("document.getElementById('knockout').textContent")
    check.that("−<" not in words and "−0\u202f%" not in words, "no loss is called smaller than something negative")


def check_lens(check):
    if not present(check, "lens.final_prob", "#figure-lens_rank svg"):
        return
    run, settle = check.chrome.run, check.chrome.settle
    check.that(run("document.querySelectorAll('table.tops tbody tr').length === sl.tensor('lens.final_prob').values.length"), "a line of words for every layer")
    if not check.has("#lens-slider"):
        return
    before, words = run(PIXELS % "lens-canvas"), run("document.querySelector('table.words').textContent")
    run("document.getElementById('lens-slider').focus()")
    check.chrome.key("ArrowLeft", 37)
    settle()
    check.that(run(PIXELS % "lens-canvas") != before, "the lens slider changes the map")
    check.that(run("document.querySelector('table.words').textContent") != words, "and the list of image tokens")
    check.that(run("(() => { const row = sl.tensor('lens.image_answer').at(Number(document.getElementById('lens-slider').value));"
                   "const all = sl.maps.inSheet(row.length); return Number(document.querySelector('table.words tbody th').textContent) === all[d3.scan(all, (a, b) => row[b] - row[a])]; })()"),
               "the first in the list has the largest probability")


def check_heads(check):
    if not present(check, "heads.score", "#figure-heads_score svg"):
        return
    run, settle = check.chrome.run, check.chrome.settle
    chosen = "document.querySelector('#figure-heads_picture .strong').textContent"
    check.that(run("document.querySelectorAll('#figure-heads_score [data-cell]').length === sl.tensor('heads.score').values.length"), "a cell for every head")
    negative = run("sl.tensor('heads.score').values.some(v => v < -0.2 * d3.max(sl.tensor('heads.score').values))")
    check.that(run("[...document.querySelectorAll('#figure-heads_score svg rect')].some(e => e.style.fill === 'none' && e.style.stroke.includes('minus'))") or not negative,
               "negative scores are hollow")
    maps = check.has("#scored-picture")
    before, picture = run(chosen), maps and run(PIXELS % "scored-picture")
    run("(() => { const heads = sl.tensor('heads.score').shape[1], own = `${Math.floor(sl.state.scored / heads)},${sl.state.scored % heads}`;"
        "[...document.querySelectorAll('#figure-heads_score [data-cell]')].find(e => e.dataset.cell !== own).dispatchEvent(new MouseEvent('click', {bubbles: true})); })()")
    settle()
    check.that(run(chosen) != before, "clicking a cell chooses its head")
    check.that(not maps or run(PIXELS % "scored-picture") != picture, "and changes the picture")
    run("document.querySelector('#figure-heads_score svg').focus()")
    now = run(chosen)
    check.chrome.key("ArrowRight", 39)
    check.that(run(chosen) != now, "arrow keys move over the scores")
    values = "[...document.querySelectorAll('.sortable tbody button')].map(b => %s)"
    by_score = run(values % "sl.tensor('heads.score').values[Number(b.dataset.component)]")
    check.that(by_score == sorted(by_score, reverse=True), "the list begins with the largest scores")
    run("[...document.querySelectorAll('.sortable .sort')][1].click()")
    rising = run(values % "sl.tensor('heads.score').values[Number(b.dataset.component)]")
    check.that(rising == sorted(rising) and rising != by_score, "a heading turns the order round")
    run("[...document.querySelectorAll('.sortable .sort')][0].click()")
    names = run(values % "Number(b.dataset.component)")
    check.that(names == list(range(len(names))), "another heading sorts by another column")
    check.that(run("document.querySelectorAll('.sortable [aria-sort=ascending]').length") == 1, "the sorted column is named for screen readers")
    run("document.querySelectorAll('.sortable tbody button')[1].click()")
    check.that(run("sl.state.scored") == names[1] and run("document.querySelectorAll('.sortable tbody button')[1].getAttribute('aria-pressed')") == "true", "a row of the list chooses its head")
    if check.has("#figure-heads_scatter svg"):
        check.that(run("document.querySelectorAll('#figure-heads_scatter svg > circle').length === sl.tensor('heads.predicted').values.length"), "a point for every test mask")
        check.that(run("document.querySelector('#figure-heads_scatter .strong').textContent.includes(sl.fixed(sl.run.analyses.heads.regression.fit.pearson, 3))"), "the fit is the stored one")
    if check.has("#figure-heads_faithfulness svg"):
        dashes = run("[...document.querySelectorAll('#figure-heads_faithfulness .body > div > svg > path')].map(e => e.style.strokeDasharray)")
        check.that(len(dashes) == run("sl.run.analyses.heads.curves.rankings.length") and len(set(dashes)) == len(dashes), "every ranking has a line style of its own")


def check_doubts(check):
    """What run.json says about how far a fit can be trusted is on the page."""
    run = check.chrome.run
    for where, key in (("heads_", "heads"), ("tokens_image_", "tokens.image"), ("tokens_text_", "tokens.text")):
        scatter = "#figure-%sscatter" % where
        if not check.has(scatter):
            continue
        said = "sl.run.analyses.%s" % key
        text = run("document.querySelector('%s').textContent" % scatter)
        interval = run("((%s.regression.fit || {}).pearson_interval || []).map(end => sl.fixed(end, 3)).join(' to ')" % said)
        check.that(interval in text and ("95" in text) == (interval != ""), "%s: the correlation's interval is given" % key)
        note = run("%s.regression.note || null" % said)
        check.that((note is not None) == check.has(scatter + " .notice") and (note is None or note[1:] in text), "%s: what makes the fit doubtful is said" % key)
        if check.has("#figure-%sfaithfulness .areas" % where):
            spreads = run("%s.curves.rankings.filter(one => one.area_sd).map(one => '± ' + sl.fixed(one.area_sd.faithful, 2))" % said)
            words = run("document.querySelector('#figure-%sfaithfulness .areas').textContent" % where)
            check.that(sum(words.count(one) for one in set(spreads)) == len(spreads), "%s: areas by chance have their deviation" % key)


def check_token_scores(check):
    stored = check.chrome.run("Boolean(sl.data.tensors['tokens.image'] || sl.data.tensors['tokens.text'])")
    check.that(check.has("#token_scores") == stored, "#token_scores is there exactly when its results are")
    if not stored:
        return
    run, settle = check.chrome.run, check.chrome.settle
    if check.has("#giving-canvas"):
        check.that(run(PIXELS % "giving-canvas") != run(PIXELS % "against-canvas"), "what raises and what lowers are shown apart")
    if check.has("#giving-set"):
        # Its first token may lie in another sheet of views than the one that is drawn.
        run("sl.set({sheet: sl.maps.sheets.findIndex(one => one.tokens.includes(sl.run.analyses.tokens.image.sufficient.image_positions[0]))})")
        before = run(PIXELS % "giving-canvas")
        run("document.getElementById('giving-set').click()")
        settle()
        check.that(run(PIXELS % "giving-canvas") != before, "the sufficient set is framed on the picture")
        run("sl.set({sheet: 0})")
    if run("Boolean(sl.data.tensors['tokens.text'])"):
        signs = run("[...document.querySelectorAll('.scored li')].map(e => e.className.split(' ')[0])")
        check.that(len(signs) == run("sl.tensor('tokens.text').shape[0]"), "a chip for every position of the text")
        if run("sl.tensor('tokens.text').shape.length") == 1:
            check.that(signs == run("Array.from(sl.tensor('tokens.text').values, v => v < 0 ? 'minus' : 'plus')"), "and its sign is the score's")


CHECKS = (check_cliff, check_knockout, check_lens, check_heads, check_doubts, check_token_scores)
