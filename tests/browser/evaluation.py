"""Checks of an evaluation's page. Used by test_page.py; what is planted is in mock_eval.py."""

from mock_eval import HOSTILE, QUESTIONS

MOCK = "Boolean(sl.run.benchmark) && sl.run.data.endsWith('main_object.jsonl')"


def check_evaluation(check):
    run = check.chrome.run
    if not run("Boolean(sl.run.benchmark)"):
        return print("skipped: no evaluation in this report")
    check.that(run("[...document.querySelectorAll('#contents a')].every(a => document.querySelector(a.getAttribute('href')))"), "every entry of the contents leads somewhere")
    check_tables(check)
    if not run(MOCK):
        return
    counts = run("sl.run.counts")
    check.that((counts["failed"], counts["bad_rows"], counts["answered"]) == (1, 1, QUESTIONS - 1), "what was planted was found: %s" % counts)
    check.that(run("document.querySelectorAll('#eval_curve svg path.band').length") == 1, "the curve has its band")
    check.that(run("document.querySelector('#eval_curve svg').textContent.includes('cliff layer') || sl.run.cliff.layer === 12"), "the cliff is marked")
    run("document.querySelector('#figure-curve details').open = true")
    check.chrome.settle()
    check.that(run("document.querySelectorAll('#figure-curve tbody tr').length") == 13, "the table has every layer and none")
    check.that(run("[...document.querySelectorAll('#figure-curve tbody tr:last-child td, #figure-curve tbody tr:last-child th')][1].textContent").startswith(
        "%.1f" % (100 * run("sl.run.metrics.accuracy"))), "whose number is the accuracy")
    cells = run("[...document.querySelectorAll('#eval_answers tbody tr:first-child > *')].map(e => e.textContent)")
    check.that(cells.count(HOSTILE) == 2, "hostile texts are shown word for word: %s" % cells)
    check.that(run("document.querySelectorAll('#eval_answers tbody tr').length === sl.run.answers_lost"), "every lost answer is listed")
    check.that("<b>none</b>.jpg" in run("document.querySelector('#eval_failures').textContent"), "failures too")
    check.that("leaves the data folder" in run("document.querySelector('#eval_failures').textContent"), "and bad rows")


def check_tables(check):
    """Rows and columns have names, what is short is shown whole, texts are printed, and shares are in percent everywhere."""
    run = check.chrome.run
    check.that(run("[...document.querySelectorAll('main thead th')].every(e => e.textContent.trim() !== '')"), "every column has a name")
    check.that(run("[...document.querySelectorAll('main .scroll tbody tr')].every(e => e.firstChild.matches('th[scope=row]'))"), "every row has one")
    check.that(run("[...document.querySelectorAll('.scroll.tall')].every(e => e.scrollHeight <= e.clientHeight)") and check.has("#eval_numbers .tall"), "no short table is cut off")
    check.that(run("document.querySelector('main h1, main h2').tagName") == "H1", "the headline is the first heading")
    main = run("sl.run.interval.value")
    share = "%.1f\u202f%%" % (100 * main)
    where = ("document.querySelector('.findings li').textContent", "document.querySelector('.short').textContent", "document.querySelector('#eval_numbers tbody').textContent")
    check.that(all(share in run(text) for text in where), "one number reads alike in sentence, list and table: %s" % share)
    check.that(" percent" not in run("document.querySelector('main').innerText").replace("_percent", ""), "percent is written as a sign")
    last = run("sl.run.cliff ? sl.run.cliff.curve.length - 1 : null")
    cliff = run("[...document.querySelectorAll('.short dt')].filter(e => e.textContent === 'cliff layer').map(e => e.nextElementSibling.textContent)")
    check.that(last is None or ("none" in cliff[0]) == (run("sl.run.cliff.layer") == last), "a cliff at the end is none: %s" % cliff)
    check.chrome.call("Emulation.setEmulatedMedia", media="print")
    check.that(run("[...document.querySelectorAll('main p')].filter(e => e.textContent && !e.querySelector('button')).every(e => getComputedStyle(e).display !== 'none')"), "every text is printed")
    check.chrome.call("Emulation.setEmulatedMedia", media="")


CHECKS = (check_evaluation,)
