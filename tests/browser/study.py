"""Checks of a study's page. Used by test_page.py; what is planted is in mock_study.py."""

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
