"""Checks of pictures that the model saw in several views. Used by test_page.py.

Boxes and views come from the page's own tensors; what is checked is what the canvas shows and what the pointer finds.
"""

PIXELS = "document.getElementById('%s').toDataURL()"

# Tokens that have a place, by view, from image.box and image.view alone.
PLACED = """(() => { const box = sl.tensor('image.box'), view = sl.tensor('image.view'), by = {};
  if (!box) return {};
  for (let i = 0; i < box.shape[0]; i++) {
    const [x0, y0, x1, y1] = box.at(i), v = view ? view.values[i] : 0;
    if (v >= 0 && x1 > x0 && y1 > y0) (by[v] = by[v] || []).push(i);
  }
  return by; })()"""

# Mean colourfulness of a canvas inside a token's box: overlays turn the picture grey where nothing is drawn.
LIT = """((id, token) => { const c = document.getElementById(id), [w, h] = sl.maps.size(), b = sl.tensor('image.box').at(token);
  const x = b[0] * c.width / w, y = b[1] * c.height / h, dx = (b[2] - b[0]) * c.width / w, dy = (b[3] - b[1]) * c.height / h;
  const d = c.getContext('2d').getImageData(x + dx * 0.3, y + dy * 0.3, Math.max(1, dx * 0.4), Math.max(1, dy * 0.4)).data;
  let g = 0; for (let i = 0; i < d.length; i += 4) g += d[i + 1] - d[i + 2]; return g / (d.length / 4); })"""


def check_sheets(check):
    """Every placed token is in one sheet, and no two views of a sheet overlap."""
    placed = check.chrome.run(PLACED)
    if not placed:
        return
    sheets = check.chrome.run("sl.maps.sheets.map(one => [one.views, one.tokens, one.grid])")
    check.that(sorted(i for _, tokens, _ in sheets for i in tokens) == sorted(i for tokens in placed.values() for i in tokens), "every token with a place is drawn in one sheet")
    check.that(sorted(v for views, _, _ in sheets for v in views) == sorted(map(int, placed)), "every view is in one sheet")
    check.that(all(sorted(tokens) == sorted(i for v in views for i in placed[str(v)]) for views, tokens, _ in sheets), "a sheet's tokens are those of its views")
    check.that(all(not grid or grid[0] * grid[1] == len(tokens) for _, tokens, grid in sheets), "a sheet's grid has as many cells as it has tokens")
    check.that(check.has("#views") == (len(sheets) > 1), "overlapping views are explained exactly where there are some")
    check.that(check.has(".radios.views") == (len(sheets) > 1), "and can be chosen")


def pointed_at(check, token):
    """What the picture's caption says with the pointer in the middle of a token's box."""
    return check.chrome.run("(() => { const c = document.getElementById('picture'), r = c.getBoundingClientRect(), [w, h] = sl.maps.size(), b = sl.tensor('image.box').at(%d);"
                            "c.dispatchEvent(new MouseEvent('mousemove', {clientX: r.left + (b[0] + b[2]) / 2 / w * r.width, clientY: r.top + (b[1] + b[3]) / 2 / h * r.height}));"
                            "return document.getElementById('patch').textContent; })()" % token)


def check_switch(check):
    """The switch changes every map; maps, frames and the pointer speak of the chosen views only."""
    run, settle = check.chrome.run, check.chrome.settle
    if run("sl.maps.sheets.length") < 2:
        return
    drawn = [name for name in ("cam-canvas", "attention-canvas", "head-picture", "scored-picture", "giving-canvas", "lens-canvas") if check.has("#" + name)]
    sheets = run("sl.maps.sheets.map(one => one.tokens)")
    for s, tokens in enumerate(sheets):
        before = {name: run(PIXELS % name) for name in drawn}
        old = run("sl.state.sheet")
        run("document.querySelectorAll('#views .radios input')[%d].click()" % s)
        settle()
        check.that(run("sl.state.sheet") == s, "the switch chooses sheet %d" % s)
        check.that(run("[...document.querySelectorAll('.radios.views')].every(f => f.querySelectorAll('input')[%d].checked)" % s), "all switches agree")
        if s != old:
            check.that(all(run(PIXELS % name) != before[name] for name in drawn), "every map follows to sheet %d" % s)
        for token in (tokens[0], tokens[len(tokens) // 2], tokens[-1]):
            words = pointed_at(check, token)
            check.that("token %d of" % token in words and "view %d," % run("sl.tensor('image.view').values[%d]" % token) in words, "the pointer finds token %d of sheet %d: %s" % (token, s, words))
    # A map of one token: it is drawn where its box is, in its own sheet, and nowhere in the others.
    for s, tokens in enumerate(sheets):
        token = tokens[len(tokens) // 3]
        paint = ("(() => { sl.state.sheet = %d; const c = document.getElementById('cam-canvas') || document.getElementById('lens-canvas'), v = new Float32Array(sl.tensor('image.box').shape[0]); v[%d] = 1;"
                 "sl.maps.paint(c, v, {maximum: 1, strength: 1, smooth: false}); return %s(c.id, %d); })()")
        lit = [run(paint % (other, token, LIT, token)) for other in range(len(sheets))]
        check.that(lit[s] > 100 and all(lit[other] < 60 for other in range(len(sheets)) if other != s), "token %d is lit in its sheet alone: %s" % (token, lit))
    run("sl.state.sheet = -1; sl.set({sheet: 0})")
    settle()


CHECKS = (check_sheets, check_switch)
