"""The numbers of a study's page against the rows they come from, and what is planted in them.

    python3 tests/test_study_report.py path/to/sightline [unittest arguments]
"""
import atexit
import ctypes
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import unittest

import test_cli
import test_study

sys.path.insert(0, os.path.join(test_cli.HERE, "browser"))
import mock_study  # noqa: E402

N = 200


class Report(test_study.Study):
    mock = None  # made once for all tests

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if Report.mock is None:
            parent = tempfile.mkdtemp(prefix="sightline-test-")
            atexit.register(shutil.rmtree, parent, ignore_errors=True)
            Report.mock = os.path.join(parent, "mock")
            mock_study.make_folder(test_cli.PROGRAM, Report.mock)
            mock_study.fill(Report.mock, N)

    def report(self, folder=None, *args):
        r = self.run_it("study", "report", folder or self.mock, "--quiet", "--json", "--out", "page.html", *args)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        return json.loads(r.stdout)

    def mock_ask(self, sql, *values):
        return test_study.ask(self.mock, sql, *values)

    def members(self, group):
        rows = self.mock_ask("SELECT example, labels FROM example WHERE status = 'done' ORDER BY 1")
        return [i for i, labels in rows if not group["label"] or json.loads(labels)[group["label"]] == group["value"]]


class Layers(Report):
    def test_an_answer_longer_than_the_model_is_deep(self):
        self.write(self.rows(2), analyses={"cam": {"per-token": True}, "flow": {}}, **{"max-tokens": 9})
        self.works("--quiet")
        n_layer = self.ask("SELECT count(*) FROM series WHERE name = 'image_share' AND example = 0")[0][0]
        self.assertGreater(self.ask("SELECT max(\"index\") + 1 FROM series WHERE name = 'target_value'")[0][0], n_layer)
        self.assertEqual(self.report("study")["model"]["n_layer"], n_layer)


class ReadOnly(Report):
    """A study that somebody else owns."""

    @staticmethod
    def as_a_guest():
        """root too is held to the files' permissions: without CAP_DAC_OVERRIDE from the next program on (prctl(2), capabilities(7))."""
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)

    def test_a_study_that_one_may_only_read(self):
        name = "50% of #1?"
        self.write(self.rows(2))
        self.works("--quiet", out=name)
        os.chmod(self.path(name, "study.sqlite"), 0o444)
        os.chmod(self.path(name), 0o555)
        self.addCleanup(os.chmod, self.path(name), 0o755)
        before = os.listdir(self.path(name))
        r = subprocess.run([test_cli.PROGRAM, "study", "report", name, "--quiet", "--out", "page.html"], cwd=self.dir, capture_output=True, preexec_fn=self.as_a_guest)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertEqual(os.listdir(self.path(name)), before)
        r = subprocess.run([test_cli.PROGRAM, "study", "report", name, "--quiet"], cwd=self.dir, capture_output=True, preexec_fn=self.as_a_guest)
        self.fails(r, 1, "Permission denied")


class Numbers(Report):
    def near(self, a, b):
        self.assertAlmostEqual(a, b, delta=1e-7 * max(1, abs(b)))

    def test_counts_and_accuracy(self):
        said = self.report()["study"]
        rows = self.mock_ask("SELECT status, correct, labels, image_hash FROM example")
        self.assertEqual((said["rows"], said["failed"], said["scored"]), (N, sum(r[0] == "failed" for r in rows), sum(r[1] is not None for r in rows)))
        self.assertEqual(said["correct"], sum(r[1] or 0 for r in rows))
        self.assertEqual(said["pictures"], len({r[3] for r in rows if r[3]}))
        self.assertEqual([label["label"] for label in said["labels"]], ["class", "hostile", "look"])
        self.assertEqual(said["unlisted"], ["serial"])
        for label in said["labels"]:
            for value in label["values"]:
                own = [r for r in rows if json.loads(r[2])[label["label"]] == value["value"]]
                self.assertEqual((value["n"], value["scored"], value["correct"]), (len(own), sum(r[1] is not None for r in own), sum(r[1] or 0 for r in own)))
        self.assertEqual(said["failures"][0]["line"], 50)

    def test_curves_are_means_with_standard_errors(self):
        said = self.report()["study"]
        self.assertEqual(len(said["groups"]), 1 + 2 + 2 + 3)
        for name in ("flow.image_share", "cam.entropy", "flow.pointing"):
            self.assertEqual([one["group"] for one in sorted(said["curves"][name], key=lambda one: one["group"])], list(range(8)))
            for one in said["curves"][name]:
                members = set(self.members(said["groups"][one["group"]]))
                for layer in (0, 7):
                    values = [v for i, v in self.mock_ask('SELECT example, value FROM series WHERE analysis = ? AND name = ? AND "index" = ?', *name.split("."), layer) if i in members]
                    self.assertEqual(one["n"][layer], len(values))
                    self.near(one["mean"][layer], statistics.mean(values))
                    self.near(one["se"][layer], statistics.stdev(values) / len(values) ** 0.5)

    def test_heads(self):
        heads = self.report()["study"]["heads"]
        self.assertEqual(len(heads["mean"]), mock_study.LAYERS * mock_study.HEADS)
        i = next(k for k in range(len(heads["mean"])) if (heads["layer"][k], heads["head"][k]) == (3, 2))
        values = [v for v, in self.mock_ask("SELECT score FROM head WHERE layer = 3 AND head = 2")]
        self.near(heads["mean"][i], statistics.mean(values))
        self.near(heads["se"][i], statistics.stdev(values) / len(values) ** 0.5)
        self.assertEqual(max(heads["mean"]), heads["mean"][i])

    def test_examples_are_compared_by_the_first_label(self):
        compared = self.report()["analyses"]["compare"]
        self.assertEqual((compared["of"], compared["classes"], len(compared["runs"])), (N - N // 50, ["cat", "dog"], 120))
        self.assertEqual(len({run["dir"] for run in compared["runs"]}), 120)
        self.assertEqual(sum(run["class"] == "cat" for run in compared["runs"]), 60)
        self.assertLess(compared["cosine"]["class"]["p"], 0.01)
        vectors = [[v for v, in self.mock_ask("SELECT h.score FROM head AS h JOIN example USING (example) WHERE id = ? ORDER BY layer, head", run["dir"])] for run in compared["runs"][:2] + compared["runs"][-1:]]
        self.assertEqual(len(vectors[0]), 96)

    def test_split_by_one_label(self):
        said = self.report(None, "--label", "look")["study"]
        self.assertEqual([g["label"] for g in said["groups"]], ["", "look", "look", "look"])
        self.fails(self.run_it("study", "report", self.mock, "--label", "serial", "--out", "page.html"), 1, "--label", "serial")


class Cliffs(Report):
    def cliff(self, folder=None):
        said = self.report(folder)["study"]
        return {(said["groups"][one["group"]]["value"], score): one for score in ("correct", "logit") for one in said["cliff"][score]}

    def test_planted_layers_are_found(self):
        cliff = self.cliff()
        for kind, layer in mock_study.CLIFF.items():
            for score in ("correct", "logit"):
                one = cliff[kind, score]
                self.assertEqual((one["layer"], one["n"]), (layer, N // 2 - (N // 50 if kind == "dog" else 0)))
                self.assertLessEqual(one["estimate"]["low"], one["estimate"]["value"])
                self.assertLessEqual(one["estimate"]["value"], layer)
        self.assertEqual(cliff["", "logit"]["layer"], 8)

    def test_points_are_means_and_intervals_those_of_the_differences(self):
        one = self.cliff()["cat", "correct"]
        members = self.members({"label": "class", "value": "cat"})
        values = {k: dict(self.mock_ask("SELECT example, value FROM series WHERE name = 'correct' AND \"index\" = ?", k)) for k in (2, 12)}
        differences = [values[2][i] - values[12][i] for i in members]
        mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        point = one["difference"][2]
        self.assertAlmostEqual(point["value"], mean, places=7)
        self.assertAlmostEqual(point["low"], mean - 1.96 * error, delta=0.4 * error)  # 1000 replicates of few examples
        self.assertAlmostEqual(point["high"], mean + 1.96 * error, delta=0.4 * error)
        self.assertAlmostEqual(one["score"][2]["value"], statistics.mean(values[2][i] for i in members), places=7)
        self.assertEqual([one["difference"][12][key] for key in ("value", "low", "high")], [0, 0, 0])
        self.assertEqual(one["eps"], 0.01)
        logit = self.cliff()["cat", "logit"]
        self.assertAlmostEqual(logit["eps"], 0.05 * abs(logit["mean"][12] - logit["mean"][0]), places=6)
        self.assertEqual(self.report()["study"]["cliff"]["share"], 0.05)

    def few(self, n):
        folder = self.path("few")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.mock, folder)
        database = sqlite3.connect(os.path.join(folder, "study.sqlite"))
        with database:
            for table in ("series", "scalar", "head", "timing", "example"):
                database.execute(f"DELETE FROM {table} WHERE example >= ?", (n,))
        database.close()
        return folder

    def test_fewer_examples_never_give_an_earlier_cliff(self):
        whole = self.cliff()["", "correct"]["layer"]
        for n in (30, 8, 4):
            self.assertGreaterEqual(self.cliff(self.few(n))["", "correct"]["layer"], whole)
        alone = self.cliff(self.few(1))["", "logit"]
        self.assertEqual((alone["layer"], alone["n"], alone["estimate"]["low"]), (12, 1, None))

    def test_pictures_are_drawn(self):
        """With all examples about one picture there is no interval; about two, another one than about as many as examples."""
        widths = []
        for n_picture in (1, 2, 40):
            folder = self.few(40)
            database = sqlite3.connect(os.path.join(folder, "study.sqlite"))
            with database:
                database.execute("UPDATE example SET image_hash = example % ?", (n_picture,))
            database.close()
            one = self.cliff(folder)["", "correct"]
            point = one["difference"][2]
            self.assertEqual(one["pictures"], n_picture)
            widths.append(None if point["low"] is None else point["high"] - point["low"])
        self.assertIsNone(widths[0])
        self.assertGreater(widths[2], 0)
        self.assertNotEqual(widths[1], widths[2])

    def test_a_loss_of_exactly_the_limit_is_kept(self):
        """Every example loses 0.05 of its effect (and so does every draw of them): the limit itself."""
        folder = self.few(40)
        database = sqlite3.connect(os.path.join(folder, "study.sqlite"))
        with database:
            database.execute("UPDATE series SET value = CASE WHEN \"index\" < 6 THEN 0 WHEN \"index\" < 9 THEN 9.5 ELSE 10 END WHERE name = 'logit'")
            database.execute("UPDATE scalar SET value = 0 WHERE name = 'no_image'")
        one = self.cliff(folder)["", "logit"]
        self.assertEqual((one["layer"], one["eps"]), (6, 0.5))
        with database:
            database.execute("UPDATE series SET value = 9.49 WHERE name = 'logit' AND \"index\" BETWEEN 6 AND 8")
        database.close()
        self.assertEqual(self.cliff(folder)["", "logit"]["layer"], 9)


class Pages(Report):
    def test_size_does_not_grow_with_examples(self):
        self.report()
        whole = os.path.getsize(self.path("page.html"))
        small = Cliffs.few(self, 130)
        self.report(small)
        self.assertLess(abs(os.path.getsize(self.path("page.html")) - whole), 20_000)

    def test_of_a_study_as_it_is_made(self):
        """Real results, with masks; the page is beside the database."""
        mask = os.path.join(test_cli.GOLDEN, "a.png")
        shutil.copy(mask, self.path("photos", "mask.png"))
        self.write([dict(row, mask="mask.png", image="a.png") for row in self.rows(4)], analyses={"flow": {}, "cam": {}, "cliff": {}, "heads": {"samples": 40}})
        self.works("--quiet")
        r = self.run_it("study", "report", "study", "--quiet")
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertTrue(r.stdout.decode().endswith("study/report.html\n"))
        with open(self.path("study", "report.html"), encoding="utf-8") as f:
            page = f.read()
        said = json.loads(page.split('id="sl-data">')[1].split("</script>")[0])
        self.assertEqual([name for name, _ in said["sections"]], ["study", "accuracy", "curves", "cliffs", "mean_heads", "compare", "failures", "made"])
        curves = said["run"]["study"]["curves"]
        for name in ("flow.image_share", "flow.object_share", "cam.mass_share", "cam.pointing", "cam.flow_correlation"):
            self.assertIn(name, curves)
        shares = self.ask("SELECT value FROM series WHERE analysis = 'cam' AND name = 'mass_share' AND example = 0")
        self.assertEqual(max(v for v, in shares if v is not None), 1)
        self.assertIsNone(shares[-1][0])  # undefined in the last layer
        self.assertEqual(self.ask("SELECT count(*) FROM example WHERE mask = 'mask.png' AND length(mask_hash) = 16"), [(4,)])
        correct = [v for v, in self.ask("SELECT value FROM series WHERE name = 'correct' AND example = 1 ORDER BY \"index\"")]
        self.assertEqual((len(correct), correct[-1]), (said["run"]["model"]["n_layer"] + 1, self.ask("SELECT correct FROM example WHERE example = 1")[0][0]))

    def test_of_answers_alone_and_of_failures_alone(self):
        self.write(self.rows(3), analyses=[])
        self.works("--quiet")
        self.assertEqual(self.report("study")["study"]["cliff"], {"single": [], "logit": [], "correct": []})
        self.write([dict(row, image="none.png") for row in self.rows(2)])
        self.assertEqual(self.study("--quiet", out="failed").returncode, 1)
        self.assertEqual(self.report("failed")["study"]["failed"], 2)

    def test_of_a_study_under_way(self):
        self.write(self.rows(2000))
        p = subprocess.Popen([test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", "study", "--quiet"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        test_study.Resuming.wait_for(self, 3)
        rows = self.report("study")["study"]["rows"]
        self.assertTrue(3 <= rows < 2000, rows)
        self.assertIsNone(p.poll())
        p.kill()
        p.communicate()

    def test_refusals(self):
        os.mkdir(self.path("empty"))
        self.fails(self.run_it("study", "report", "empty"), 1, "empty: no study")
        self.fails(self.run_it("study", "report"), 2, "study report DIR")
        self.write(self.rows(1))
        self.works("--quiet")
        database = sqlite3.connect(self.path("study", "study.sqlite"))
        database.execute("PRAGMA user_version = 1")
        database.close()
        self.fails(self.run_it("study", "report", "study"), 1, "expected schema 2, found 1")
        self.fails(self.run_it("study", "report", self.mock, "--out", "gone/page.html"), 1, "gone/page.html")


if __name__ == "__main__":
    test_cli.PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
