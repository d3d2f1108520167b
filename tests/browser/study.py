"""Checks of a study's page. Used by test_page.py; what is planted is in mock_study.py."""

import re
import time

from mock_study import CLIFF, HOSTILE, LAYERS

MOCK = "Boolean(sl.run.study) && sl.run.study.data === 'mock.jsonl'"


def check_study(check):
    run = check.chrome.run
    if not run("Boolean(sl.run.study)"):
        return print("skipped: no study in this report")
    check.that(run("document.querySelectorAll('main section').length") >= 3, "a study has sections")
    check.that(run("[...document.querySelectorAll('#contents a')].every(a => document.querySelector(a.getAttribute('href')))"), "every entry of the contents leads somewhere")
    size = run("document.getElementById('sl-data').textContent.length")
    check.that(size < 2_000_000, "the numbers do not grow with the examples: %d bytes" % size)
    if not run(MOCK):
        return
    check_numbers(check)
    check_intervals(check)
    check_words(check)
    check_print(check)
    check_split(check)
    check_load(check)


def check_numbers(check):
    """What was planted is what is said."""
    run = check.chrome.run
    n = run("sl.run.study.rows")
    good, bad = n - n // 50, n // 50
    check.that(str(bad) in run("document.querySelector('#failures .lead').textContent").split(" "), "failures are counted")
    check.that("<b>No such file</b> & more" in run("document.querySelector('#failures td:last-child').textContent"), "an error's text is shown word for word")
    check.that(run("document.querySelectorAll('#failures tbody tr').length") == min(bad, 50), "at most 50 failures are listed")
    correct = sum(i // 2 % 50 < (45 if i % 2 == 0 else 30) for i in range(n) if i % 50 != 49)
    check.that(("%g\u202f%% of" % round(100 * correct / good, 1)) in run("document.querySelector('.findings').textContent"), "the accuracy is that of the rows")
    for name, eps in (("correct", 0.01), ("logit", 0.05)):
        for kind, layer in CLIFF.items():
            told = run("(() => { const s = sl.run.study, g = s.groups.findIndex(one => one.label === 'class' && one.value === '%s'); return s.cliff.%s.find(one => one.group === g); })()" % (kind, name))
            check.that(told["layer"] == layer and told["estimate"]["value"] in (layer, layer - 1), "cliff of %s by %s: %s" % (kind, name, told["layer"]))
            check.that(told["estimate"]["low"] <= told["estimate"]["value"] <= told["estimate"]["high"] <= layer, "its interval holds the estimate")
    check.that(run("sl.run.study.cliff.correct[0].layer") == max(CLIFF.values()), "the cliff of all is that of those who need the picture longest")
    check.that("layer 3, head 2" in run("document.querySelector('#mean-head').textContent"), "the planted head is chosen first")
    check.that(run("document.querySelector('#figure-top_heads svg').textContent").startswith("−") or "layer 3 · 2" in run("document.querySelector('#figure-top_heads svg').textContent"), "and listed")
    check.that(run("[...document.querySelectorAll('[id^=figure-accuracy_] h3')].map(e => e.textContent)") == ["By class", "By hostile", "By look"], "accuracy by label; serial numbers are left out")
    check.that(run("document.querySelector('#accuracy').textContent.includes('serial')"), "and named")
    texts = run("[...document.querySelectorAll('#figure-accuracy_1 svg text')].map(e => e.textContent)")
    check.that(any(text.startswith(HOSTILE[0][:6]) for text in texts), "hostile labels are text")
    mean = run("sl.run.study.curves['flow.image_share'][0].mean")
    check.that(len(mean) == LAYERS and abs(mean[0] - 0.4) < 0.02 and abs(mean[-1] - 0.02) < 0.02, "mean curves are means")
    check.that(run("sl.run.study.curves['flow.image_share'][0].se.every(v => v > 0 && v < 0.05)"), "with standard errors")
    compared = run("sl.run.analyses.compare.runs.length")
    check.that(2 <= compared <= 120 and compared <= n, "a sample is compared: %d" % compared)
    check.that(run("sl.run.analyses.compare.cosine.class.value > 0 && sl.run.analyses.compare.cosine.class.p < 0.05"), "classes that use other heads are told apart")


def wilson(k, n, z=1.96):
    p, centre, width = k / n, (k + z * z / 2) / (n + z * z), z / (n + z * z) * (k * (n - k) / n + z * z / 4) ** 0.5
    return max(0, min(p, centre - width)), min(1, max(p, centre + width))


def check_intervals(check):
    """Student's t of few examples, Wilson's of a yes or a no, nothing that cannot be; the table has what the chart has."""
    run = check.chrome.run
    for n, t in ((2, 12.706), (4, 3.182), (6, 2.571), (7, 2.447), (9, 2.306), (11, 2.228), (31, 2.042), (1001, 1.962)):
        check.that(abs(run("sl.study.student(%d)" % n) / t - 1) < 1e-3, "Student's t of %d values" % n)

    def curve(name, mean, se, n):
        return run("(c => c.low.map((low, i) => [low, c.high[i]].map(v => Number.isNaN(v) ? null : v)))(sl.study.curveOf('%s', {mean: %s, se: %s, n: %s}))" % (name, mean, se, n))
    for k, n in ((0, 7), (7, 7), (3, 4), (2, 2)):
        low, high = curve("flow.pointing", "[%r]" % (k / n), "[0]", "[%d]" % n)[0]
        check.that(abs(low - wilson(k, n)[0]) < 1e-6 and abs(high - wilson(k, n)[1]) < 1e-6 and low < high, "%d of %d on the object: %s" % (k, n, (low, high)))
    check.that(curve("cam.flow_correlation", "[0.2, 0.9]", "[0.5, 0.1]", "[3, 3]") == [[-1, 1], [0.9 - 0.1 * 4.303, 1]], "a correlation stays between -1 and 1")
    check.that(curve("cam.mass_share", "[0.1, 0.4]", "[0.1, null]", "[3, 1]") == [[0, 0.1 + 0.1 * 4.303], [None, None]], "a share is not under 0, and one example has no interval")
    check.that(curve("cam.pointing", "[1]", "[null]", "[1]") == [[None, None]], "nor has one yes or no")
    note = "sl.study.curveOf('%s', {mean: [0, 0], se: [0, 0], n: %s}).note"
    check.that([run(note % ("cam.entropy", n)) for n in ("[8, 3]", "[1, 0]", "[4, 1]", "[4, 0]")] ==
               ["3 to 8 examples", "1 example: no interval", "1 to 4 examples, no interval where it is one", "4 examples"], "curves say how many examples they are of")
    run("document.querySelector('#figure-mean_pointing details').open = true")
    check.chrome.settle()
    cells = run("[...document.querySelectorAll('#figure-mean_pointing tbody tr:nth-child(3) td')].map(e => e.textContent)")
    one = run("(c => [c.mean[2], c.n[2]])(sl.run.study.curves['flow.pointing'].find(c => c.group === 0))")
    check.that(cells[:3] == [run("sl.percent(%r)" % v) for v in (one[0], *wilson(one[0] * one[1], one[1]))], "the table has Wilson's interval: %s" % cells[:3])
    run("document.querySelector('#figure-mean_pointing details').open = false")
    i = run("sl.run.study.heads.mean.indexOf(d3.max(sl.run.study.heads.mean))")
    half = run("(h => sl.number(h.se[%d] * sl.study.student(h.n[%d]), 2))(sl.run.study.heads)" % (i, i))
    check.that("± %s" % half in run("document.querySelector('#mean-head').textContent") and "± %s" % half in run("document.querySelector('.findings').textContent"), "heads have Student's interval")


def check_words(check):
    """The head of the page says which cliff it means, what is not on the page, and where a largest value is not sure."""
    run = check.chrome.run
    short = dict(run("[...document.querySelectorAll('.short dt')].map(e => [e.textContent, e.nextElementSibling.textContent])"))
    check.that((short["cliff by accuracy"], short["cliff by target"]) == (str(max(CLIFF.values())),) * 2, "the cliff by either score: %s" % short)
    check.that(run("document.querySelector('#elsewhere').textContent").startswith("This page does not sum up lens:"), "what is not on the page is told")
    findings = run("[...document.querySelectorAll('.findings li')].map(e => e.textContent)")
    check.that(any("at most 5\u202f% of the picture’s whole effect" in text for text in findings), "the target's limit is told")
    curve = run("(c => [c.mean, c.se])(sl.run.study.curves['flow.image_share'].find(c => c.group === 0))")
    best = curve[0].index(max(curve[0]))
    rivals = sum(m + 1.966 * s >= curve[0][best] - 1.966 * curve[1][best] for m, s in zip(*curve)) - 1
    text = next(text for text in findings if "most attention on the image" in text)
    check.that(("%d other" % rivals in text) == (rivals > 0) and "layer %d:" % best in text, "intervals that reach into the largest one's are counted: %s" % text)
    check.that(run("document.querySelector('main h1, main h2').tagName") == "H1", "the headline is the first heading")
    axes = run("[...document.querySelectorAll('#curves svg[role=img], #cliffs svg[role=img]')].map(s => s.textContent.match(/[^\\d%−]+, by (layer|first hidden layer|cliff layer) /) !== null)")
    check.that(len(axes) > 5 and all(axes), "value axes say what they show")
    check.that(not re.search(r"(^|\D)1 examples|1 pictures", run("document.querySelector('main').innerText")), "one example is not examples")


def check_print(check):
    """Texts are printed, buttons are not."""
    check.chrome.call("Emulation.setEmulatedMedia", media="print")
    check.that(check.chrome.run("getComputedStyle(document.querySelector('#accuracy > .note')).display !== 'none'"), "what accuracy is not split by is printed")
    check.chrome.call("Emulation.setEmulatedMedia", media="")


def check_split(check):
    """One choice splits every curve; bands are drawn; the table follows."""
    run, settle = check.chrome.run, check.chrome.settle
    paths = "[...document.querySelectorAll('#figure-%s svg path')].length"
    before = run(paths % "cliff_accuracy")
    check.that(run("document.querySelectorAll('#figure-cliff_accuracy path.band').length") == 1, "a band for all examples")
    run("document.querySelector('#curves .radios input[value=\"0\"]').click()")
    settle()
    check.that(run("document.querySelectorAll('#figure-cliff_accuracy path.band').length") == 2 and run(paths % "cliff_accuracy") > before, "a split in one section splits the others")
    check.that(run("document.querySelector('#cliffs .radios input[value=\"0\"]').checked"), "and shows the choice there")
    check.that(all(word in run("document.querySelector('#figure-mean_image_share').textContent") for word in ("cat", "dog")), "groups are named")
    run("document.querySelector('#figure-cliff_accuracy details').open = true")
    settle()
    check.that("dog" in run("document.querySelector('#figure-cliff_accuracy thead').textContent"), "the table follows")
    run("document.querySelector('#figure-cliff_accuracy details').open = false; document.querySelector('#curves .radios input[value=\"-1\"]').click()")
    settle()
    check.that(run(paths % "cliff_accuracy") == before, "and back")


def check_load(check):
    """From the address to the finished page in under 2 s."""
    since = time.monotonic()
    check.open()
    seconds = time.monotonic() - since
    print("loads in %.2f s" % seconds)
    check.that(seconds < 2 or check.chrome.run("navigator.hardwareConcurrency") < 2, "loads in under 2 s: %.2f s" % seconds)


CHECKS = (check_study,)
