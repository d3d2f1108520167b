"""Checks of an evaluation's page. Used by test_page.py; what is planted is in mock_eval.py."""

from mock_eval import HOSTILE, QUESTIONS

MOCK = "Boolean(sl.run.benchmark) && sl.run.data.endsWith('main_object.jsonl')"


def check_evaluation(check):
    run = check.chrome.run
    if not run("Boolean(sl.run.benchmark)"):
        return print("skipped: no evaluation in this report")
    check.that(run("[...document.querySelectorAll('#contents a')].every(a => document.querySelector(a.getAttribute('href')))"), "every entry of the contents leads somewhere")
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
    cells = run("[...document.querySelectorAll('#eval_answers tbody tr:first-child td')].map(e => e.textContent)")
    check.that(cells.count(HOSTILE) == 2, "hostile texts are shown word for word: %s" % cells)
    check.that(run("document.querySelectorAll('#eval_answers tbody tr').length === sl.run.answers_lost"), "every lost answer is listed")
    check.that("<b>none</b>.jpg" in run("document.querySelector('#eval_failures').textContent"), "failures too")
    check.that("leaves the data folder" in run("document.querySelector('#eval_failures').textContent"), "and bad rows")


CHECKS = (check_evaluation,)
