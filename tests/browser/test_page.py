#!/usr/bin/env python3
"""test_page.py REPORT.html [--shots DIR]: checks a report in headless Chromium; exit status 1 on failure.

Works on any report, made from the mock or from a real run: checks of sections that a report does not have are
skipped, and said so.
"""

import argparse
import base64
import os
import re
import pathlib
import shlex
import sys

import causal
import comparison
import evaluation
import study
import views
from chrome import Chrome, ChromeError

PIXELS = "document.getElementById('%s').toDataURL()"
PATCHES = "(sl.run.tokens || []).filter(token => token.class === 'image').length"
FIRST_SVG = "document.querySelector('%s svg').outerHTML"
RIGHT, LEFT, TAB, SPACE = ("ArrowRight", 39), ("ArrowLeft", 37), ("Tab", 9), (" ", 32)


class Check:
    def __init__(self, chrome, url, shots):
        self.chrome, self.url, self.shots, self.failures, self.done = chrome, url, shots, 0, 0

    def that(self, truth, what):
        self.done += 1
        if not truth:
            self.failures += 1
        if not truth or os.environ.get("VERBOSE"):
            print(("ok      " if truth else "FAILED  ") + what)

    def has(self, selector):
        return self.chrome.run("document.querySelector(%r) !== null" % selector)

    def open(self, width=1400, dark=False):
        self.chrome.open(self.url, width, dark=dark)
        self.chrome.wait("document.documentElement.dataset.ready === 'true'")
        self.chrome.settle()

    def shot(self, name):
        if not self.shots:
            return
        size = self.chrome.call("Page.getLayoutMetrics")["cssContentSize"]
        answer = self.chrome.call("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                                  clip={"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 14000), "scale": 1})
        pathlib.Path(self.shots, name + ".png").write_bytes(base64.b64decode(answer["data"]))


def check_silence(check, when):
    """No errors, no warnings, nothing asked from any network."""
    for event in check.chrome.events:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            check.that(False, "%s: exception %s" % (when, parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            check.that(False, "%s: console says %s" % (when, parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            check.that(False, "%s: log says %s" % (when, parameters["entry"]["text"]))
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            check.that(url.startswith(("data:", "blob:")) or url.split("#")[0] == check.url, "%s: asks for %s" % (when, url[:200]))
    check.that(True, when + ": silent")


def check_structure(check):
    run = check.chrome.run
    check.that(run("document.title.endsWith('sightline')"), "has a title")
    check.that(run("document.querySelectorAll('h1').length === 1 && document.querySelector('h1').textContent.length > 0"), "has one headline")
    if run("Boolean(sl.run.prompt)"):
        check.that(run("document.querySelector('h1').textContent === (JSON.parse(document.getElementById('sl-data').textContent).run.prompt.question)"),
                   "the headline is the question, word for word")
    check.that(run("document.querySelectorAll('main img, main script, main iframe').length === 0"), "no element came out of a text")
    check.that(run("[...document.querySelectorAll('canvas')].every(c => c.getAttribute('aria-label') || c.closest('[aria-label]') || c.getAttribute('aria-hidden'))"),
               "pictures have descriptions")
    check.that(run("[...document.querySelectorAll('button, input, select')].every(e => e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label'))"),
               "controls have names")
    check.that(run("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length"), "ids are unique")
    check.that(run("[...document.querySelectorAll('main *')].filter(e => e.children.length === 0 && !e.closest('h1, .answer, .tokens, pre, .name'))"
                   ".every(e => !/^(undefined|null)$|\\bNaN\\b|\\[object /.test(e.textContent.trim()))"), "no NaN, undefined or null in words and numbers")
    check.that(run("!document.querySelector('main').innerText.includes('[object ')"), "no object where a text should be")
    check.that(run("document.querySelectorAll('.findings li').length <= 9"), "at most one finding for each measurement")


def check_numbers(check):
    """How numbers are written: what is not all is never 100 %, and every minus is one."""
    for value, text in ((0, "0"), (1, "100"), (0.9998, "99.9"), (0.996, "99.6"), (0.994, "99"), (1.222, "122"), (-0.9981, "−99.8"), (0.0123, "1.2"),
                        (1e-6, "< 0.01")):
        check.that(check.chrome.run("sl.percent(%r)" % value) == text + "\u202f%", "%g in percent" % value)
    check.that(check.chrome.run("[sl.number(-3.1e-4), sl.number(12345), sl.percentTick(1e-5)].join(' ')") == "−3.1e−4 12300 0.001\u202f%", "signs and ticks")
    check.that(check.chrome.run("sl.wrapped('one two three four', 8).join('|')") == "one two|three|four", "long lines of a saved figure are broken")


def check_strong_maps(check):
    """What is said of maps is said of layers whose map is more than next to nothing."""
    run = check.chrome.run
    if not run("Boolean(sl.tensor('cam.mass') && sl.tensor('cam.flow_correlation'))"):
        return print("skipped: no CAM beside flow in this report")
    strong = run("(() => { const m = sl.tensor('cam.mass').values, top = d3.max(d3.range(sl.facts.nLayer).filter(sl.facts.isDefined), i => m[i]);"
                 "return Array.from(m, value => value >= sl.facts.cliffMass * top); })()")
    told = run("[...document.querySelectorAll('.findings li')].map(one => one.textContent).filter(text => text.startsWith('Attention and CAM'))")
    check.that(len(told) <= 1 and all(strong[int(layer)] for text in told for layer in re.findall(r"layer (\d+)", text)), "agreement is told of strong maps")


def check_command(check):
    """The command names the model it ran on (a comparison takes none), and a shell reads it as it was."""
    run = check.chrome.run
    command = run("sl.run.command") or []
    if not command:
        return print("skipped: no command in this report")
    if command[1] != "compare" and not any(word.startswith("--mo") for word in command) and run("Boolean(sl.run.model && sl.run.model.path)"):
        command[2:2] = ["--model", run("sl.run.model.path")]
    check.that(shlex.split(run("document.getElementById('command').textContent")) == command, "the command is whole and quoted")
    check.that(run("document.getElementById('command').parentNode.textContent.includes('add --force')") == (not any(word.startswith("--f") for word in command)),
               "--force is advised where it is not given")


def check_baselines(check):
    """What an even spread gives: counted in tokens, and left out where the run does not say."""
    run = check.chrome.run
    share = run("(() => { const n = sl.run.image && sl.run.image.object_tokens; return Number.isInteger(n) ? n / (%s) : null; })()" % PATCHES)
    words = run("[...document.querySelectorAll('.findings, #figure-object_share svg')].map(e => e.textContent).join(' ')")
    if share is None:
        check.that("even spread" not in words and "evenly spread" not in words, "no share of the object is made up")
    elif check.has("#figure-object_share svg"):
        check.that("evenly spread, %s of the tokens" % run("sl.percent(%r)" % share) in words, "the object's share is one of tokens")
    if check.has("#figure-entropy svg"):
        n = run(PATCHES)
        check.that(run("document.querySelector('#figure-entropy svg').textContent.includes('ln %d')" % n), "entropy is set against the number of patches")


def check_frame(check):
    """Cropped pictures say so and are dimmed where the model saw nothing."""
    if not check.has("#picture") or not check.chrome.run("sl.maps.hasPicture()"):
        return print("skipped: no picture in this report")
    cropped = check.chrome.run("(() => { const boxes = sl.tensor('image.patch_box') || sl.tensor('image.box'), [width, height] = sl.maps.size(); if (!boxes) return false;"
                               "const of = k => sl.maps.shown(boxes.shape[0]).map(i => boxes.at(i)[k]);"
                               "return Math.min(...of(0)) >= 1 || Math.min(...of(1)) >= 1 || Math.max(...of(2)) <= width - 1 || Math.max(...of(3)) <= height - 1; })()")
    check.that(("Outside the frame" in check.chrome.run("document.getElementById('patch').textContent")) == cropped, "cropping is said where it happened")
    darker = check.chrome.run("(() => { const shown = document.getElementById('picture'), plain = sl.maps.canvas(shown.width); sl.maps.paint(plain, new Float32Array((sl.tensor('image.patch_box') || sl.tensor('image.box') || {shape: [1]}).shape[0]), {maximum: 0});"
                              "const light = c => d3.mean(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); return light(shown) < light(plain) * 0.99; })()")
    check.that(not check.chrome.run("sl.tensor('image.box') !== null") or darker == cropped, "only what was cropped away is dimmed")


def check_cam(check):
    if not check.has("#layer-slider"):
        return print("skipped: no CAM in this report")
    run, key, settle = check.chrome.run, check.chrome.key, check.chrome.settle
    before = run(PIXELS % "cam-canvas")
    run("document.getElementById('layer-slider').focus()")
    check.that(run("document.activeElement.id") == "layer-slider", "the layer slider takes the focus")
    old = int(run("document.getElementById('layer-slider').value"))
    last = int(run("document.getElementById('layer-slider').max"))
    key(*(RIGHT if old < last else LEFT))
    settle()
    check.that(run("document.getElementById('layer-slider').value") != str(old), "arrow keys move the layer slider")
    check.that(run(PIXELS % "cam-canvas") != before, "the slider changes the picture")
    if last > 0:
        run("document.querySelector('.frame[aria-checked=true]').focus()")
        now = run("document.activeElement.dataset.layer")
        key(*(RIGHT if int(now) < last else LEFT))
        settle()
        check.that(run("document.activeElement.dataset.layer") != now, "arrow keys move along the film strip")
        check.that(run("document.activeElement.getAttribute('aria-checked')") == "true", "the frame with the focus is the chosen one")
        check.that(run("document.getElementById('layer-slider').value === document.activeElement.dataset.layer"), "film strip and slider agree")
    strength = "(() => { const s = document.querySelector('#cam .controls .slider input'); s.value = %s; s.dispatchEvent(new Event('input')); })()"
    undefined = run("document.querySelector('.frame[aria-checked=true]').classList.contains('undefined')")
    if check.has("#cam .unused") or undefined:
        print("skipped: overlay strength (no map over a picture here)")
    else:
        before = run(PIXELS % "cam-canvas")
        run(strength % 0)
        check.that(run(PIXELS % "cam-canvas") != before, "overlay strength changes the picture")
        run(strength % 0.75)
    if check.has(".frame.undefined"):
        run("document.querySelector('.frame.undefined').click()")
        settle()
        check.that("not the same as" in run("document.querySelector('.stage').textContent"), "an undefined layer says why")
        check.that(run("(() => { const c = document.getElementById('cam-canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                       "let most = 0; for (let i = 0; i < d.length; i += 4) most = Math.max(most, Math.abs(d[i] - d[i + 2])); return most < 60; })()"),
                   "an undefined layer is hatched, not coloured")


def check_flow(check):
    if not check.has("#figure-flow_share svg"):
        return print("skipped: no flow in this report")
    run, settle = check.chrome.run, check.chrome.settle
    check.that(run("document.querySelector('#flow .lead').textContent.includes('--renormalise') === (((sl.run.options || {}).flow || {}).renormalise === true)"),
               "renormalised shares are called so")
    least = run("d3.min(sl.tensor('flow.share').values.filter((value, i) => i % 5 === 1 && value > 0)) || 1")
    check.that(run("sl.percent(Math.pow(10, Math.floor(Math.log10(Math.max(1e-6, Math.min(0.005, %r))))))" % least)
               in run("document.querySelector('#figure-flow_image_share svg').textContent"), "the logarithmic axis reaches the least share of all positions")
    if run("document.querySelectorAll('.token[data-query]').length") > 1:
        before = run(FIRST_SVG % "#figure-flow_share")
        run("document.querySelectorAll('.token[data-query]')[1].click()")
        settle()
        check.that(run(FIRST_SVG % "#figure-flow_share") != before, "choosing an answer token changes the chart")
        check.that(run("document.querySelectorAll('.token[data-query]')[1].getAttribute('aria-pressed')") == "true", "the chosen token is marked")
        run("document.querySelectorAll('.token[data-query]')[0].click()")
        settle()
    if check.has("#figure-flow_heads svg"):
        run("document.querySelector('#figure-flow_heads svg').focus()")
        before = run("document.querySelector('#figure-flow_heads [data-cursor]').getAttribute('y')")
        picture = check.has("#head-picture") and run(PIXELS % "head-picture")
        check.chrome.key("ArrowDown", 40)
        moved = run("document.querySelector('#figure-flow_heads [data-cursor]').getAttribute('y')") != before
        if not moved:
            check.chrome.key("ArrowUp", 38)
            moved = run("document.querySelector('#figure-flow_heads [data-cursor]').getAttribute('y')") != before
        heads = run("sl.facts.nHead")
        check.that(moved or heads == 1, "arrow keys move over the heads")
        stored = run("sl.tensor('flow.image_heads') !== null")
        check.that(not (picture and stored and heads > 1) or run(PIXELS % "head-picture") != picture, "another head shows another picture")
        before = run("document.querySelector('#figure-flow_heads [data-cell]').getAttribute('style')")
        run("(() => { const s = document.querySelector('#figure-flow_heads select'); s.selectedIndex = s.selectedIndex ? 0 : s.options.length - 1; s.dispatchEvent(new Event('change')); })()")
        settle()
        check.that(run("document.querySelector('#figure-flow_heads svg').getAttribute('aria-label').length > 0"), "the map of heads has a description")


def check_keyboard(check):
    """Tab reaches every group of controls, and the focus can be seen."""
    check.chrome.run("document.querySelector('.skip').focus()")
    seen, hidden = [], 0
    for _ in range(240):
        check.chrome.key(*TAB)
        where = check.chrome.run("(() => { const e = document.activeElement; if (!e || e === document.body) return null;"
                                 "const shown = e.matches('.radios input') ? e.nextElementSibling : e;"
                                 "return [e.id || e.className || e.tagName, e.closest('section') ? e.closest('section').id : 'page', getComputedStyle(shown).outlineStyle !== 'none']; })()")
        if where is None:
            break
        seen.append(where)
        hidden += not where[2]
    sections = set(place for _, place, _ in seen)
    check.that(hidden == 0, "the focus is visible everywhere (%d of %d are not)" % (hidden, len(seen)))
    check.that(sections >= set(check.chrome.run("[...document.querySelectorAll('section')].filter(s => s.querySelector('button:not([tabindex=\"-1\"]), input, select, summary')).map(s => s.id)")),
               "Tab reaches every section with controls, got %s" % sorted(sections))
    if check.has(".token"):
        check.chrome.run("document.querySelector('.token[tabindex=\"0\"]').focus()")
        check.chrome.key(*LEFT)
        check.that("position" in check.chrome.run("document.getElementById('token-detail').textContent"), "arrow keys read the tokens")


def check_files(check):
    """Every figure can be saved: the anchors are caught before they download."""
    got = check.chrome.run("""(async () => {
      const names = [], save = sl.save; sl.save = (blob, name) => names.push([name, blob.size]);
      const buttons = [...document.querySelectorAll('.tools button')]; buttons.forEach(b => b.click());
      for (let i = 0; i < 4000 && names.length < buttons.length; i++) await new Promise(done => setTimeout(done, 25));
      sl.save = save;
      return [buttons.length, names];
    })()""", timeout=240)
    check.that(got[0] == len(got[1]), "every download button saves a file (%d of %d)" % (len(got[1]), got[0]))
    check.that(all(size > 200 for _, size in got[1]), "no saved file is empty")
    if check.has(".figure svg"):
        check.that(check.chrome.run("""[...document.querySelectorAll('.figure')].filter(f => f.querySelector('.body svg')).every(f => {
          const t = sl.svgText(f.querySelector('.body svg'), sl.surroundings(f)).text, drawn = new DOMParser().parseFromString(t, 'image/svg+xml');
          return !t.includes('var(') && drawn.querySelector('parsererror') === null && [f.querySelector('h3'), ...f.querySelectorAll('.key > span')].filter(one => !one.closest('[hidden]'))
              .every(one => drawn.documentElement.textContent.replace(/\\s/g, '').includes(one.textContent.replace(/\\s/g, ''))); })"""),
                   "saved SVGs stand alone, with title and legend")
        check.that(check.chrome.run("""[...document.querySelectorAll('.figure')].filter(f => f.querySelector('.body svg')).every(f => {
          const svg = f.querySelector('.body svg'), box = svg.getBBox(), saved = sl.svgText(svg, sl.surroundings(f));
          const drawing = new DOMParser().parseFromString(saved.text, 'image/svg+xml').querySelector('[data-drawing]'), at = k => Number(drawing.getAttribute(k));
          const holder = document.body.appendChild(document.createElement('div'));
          holder.innerHTML = saved.text;
          const inside = [...holder.querySelectorAll(':scope > svg > text')].every(t => { const b = t.getBBox(); return b.x >= 0 && b.x + b.width <= saved.width; });
          holder.remove();
          return inside && at('x') + box.x >= 0 && at('y') + box.y >= 0 && at('x') + box.x + box.width <= saved.width && at('y') + box.y + box.height <= saved.height; })"""),
                   "nothing of a drawing is cut off in its file")
    opened = check.chrome.run("(async () => { const all = [...document.querySelectorAll('details')]; all.forEach(d => { d.open = true; });"
                              "await new Promise(done => setTimeout(done, 200)); const good = all.every(d => d.querySelector('td, pre') !== null);"
                              "all.forEach(d => { d.open = false; }); return good; })()")
    check.that(opened, "every figure's numbers open as a table")


def check_colours(check):
    background = "getComputedStyle(document.body).backgroundColor"
    light = check.chrome.run(background)
    check.chrome.colours(True)
    dark = check.chrome.run(background)
    check.that(light != dark, "follows the system's dark setting")
    check.chrome.run("document.getElementById('theme').click()")
    check.that(check.chrome.run(background) == light, "the button switches back to light")
    check.chrome.run("document.getElementById('theme').click()")
    check.that(check.chrome.run(background) == dark, "and to dark again")
    check.chrome.colours(False)
    check.chrome.run("delete document.documentElement.dataset.theme")


def check_widths(check):
    for width in (1400, 1024, 768, 480, 360):
        check.open(width)
        wide = check.chrome.run("document.documentElement.scrollWidth")
        check.that(wide <= width, "no sideways scrolling at %d px (page is %d)" % (width, wide))
        if wide > width:
            print("        " + str(check.chrome.run("[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(e => e.tagName + '.' + (e.className.baseVal ?? e.className))")))


def check_print(check):
    pdf = base64.b64decode(check.chrome.call("Page.printToPDF", printBackground=False)["data"])
    check.that(pdf.startswith(b"%PDF") and len(pdf) > 20000, "prints")
    check.chrome.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    check.that(check.chrome.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "prints on white, also from dark")
    check.that(check.chrome.run("[...document.querySelectorAll('.controls input[type=range], .controls button, .tools')].every(e => e.offsetParent === null)"),
               "controls are not printed")
    check.that(check.chrome.run("[...document.querySelectorAll('.controls .radios label')].every(e => (e.offsetParent !== null) === e.querySelector('input').checked)"),
               "but what they chose is")
    check.chrome.call("Emulation.setEmulatedMedia", media="", features=[])
    if check.shots:
        pathlib.Path(check.shots, "print.pdf").write_bytes(pdf)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("--shots", help="folder for screenshots")
    arguments = parser.parse_args()
    path = pathlib.Path(arguments.report).resolve()
    if not path.is_file():
        print("no such file: %s" % path)
        return 1
    if arguments.shots:
        os.makedirs(arguments.shots, exist_ok=True)
    try:
        chrome = Chrome()
    except (ChromeError, OSError) as error:
        print("cannot start the browser: %s" % error)
        return 1
    check = Check(chrome, path.as_uri(), arguments.shots)
    try:
        for width, dark, name in ((1400, False, "light-1400"), (1400, True, "dark-1400"), (380, False, "light-380"), (380, True, "dark-380")):
            check.open(width, dark)
            check.shot(name)
            check_silence(check, name)
        check.open()
        for step in (check_structure, check_numbers, check_strong_maps, check_command, check_baselines, check_frame, check_cam, check_flow, *causal.CHECKS, *views.CHECKS, *comparison.CHECKS, *study.CHECKS, *evaluation.CHECKS, check_keyboard, check_files, check_colours):
            step(check)
        check_silence(check, "after use")
        check_print(check)
        check_widths(check)
        check_silence(check, "at the end")
    except ChromeError as error:
        check.that(False, str(error))
    finally:
        chrome.close()
    print("%s: %d checks, %d failed" % (path.name, check.done, check.failures))
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
