"""Studies as a user runs them: what is stored, what is refused, and that a study that was killed, or whose disk was full, ends as one that was not.

    python3 tests/test_study.py path/to/sightline [unittest arguments]
"""
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import unittest

import test_cli

TABLES = ("study", "example", "scalar", "series", "head")  # all but timing
BUNDLED = os.path.join(test_cli.HERE, "..", "models", "pocket-llava")
EXAMPLES = os.path.join(test_cli.HERE, "..", "examples")


def ask(folder, sql, *values):
    database = sqlite3.connect(f"file:{os.path.join(folder, 'study.sqlite')}?mode=rw", uri=True)  # never made here
    try:
        return database.execute(sql, values).fetchall()
    finally:
        database.close()


def dump(folder):
    """The ordered rows of all result tables, and the bytes of all tensors."""
    rows = {}
    for table in TABLES:
        n = len(ask(folder, f"PRAGMA table_info({table})"))
        rows[table] = ask(folder, f"SELECT * FROM {table} ORDER BY {', '.join(str(i + 1) for i in range(n))}")
    tensors = {}
    for name in os.listdir(os.path.join(folder, "tensors")):
        with open(os.path.join(folder, "tensors", name), "rb") as f:
            tensors[name] = f.read()
    return rows, tensors


def small_disk(limit):
    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return before


def is_held(folder):
    """Whether a process holds the folder's lock."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


class Study(test_cli.Cli):
    MODEL = test_cli.GOLDEN

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("photos"))
        for name in ("a.png", "b.png"):
            shutil.copy(os.path.join(test_cli.GOLDEN, name), self.path("photos", name))

    def rows(self, n=6):
        return [{"id": f"x{i}", "image": "ab"[i % 2] + ".png", "question": "What is in the picture?", "answer": "cat",
                 "kind": ["even", "odd"][i % 2], "weight": i / 4} for i in range(n)]

    def write(self, rows=None, name="data.jsonl", **plan):
        with open(self.path(name), "w") as f:
            for row in self.rows() if rows is None else rows:
                f.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
        keys = {"model": self.MODEL, "data": name, "images": "photos", "analyses": ["flow"], "threads": 1, "compute": "f32", "max-tokens": 3}
        keys.update(plan)
        with open(self.path("plan.json"), "w") as f:
            json.dump({k: v for k, v in keys.items() if v is not None}, f)

    def study(self, *args, out="study", **more):
        return self.run_it("study", "run", "--plan", "plan.json", "--out", out, *args, **more)

    def works(self, *args, **more):
        result = self.study(*args, **more)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return result

    def ask(self, sql, *values, folder="study"):
        return ask(self.path(folder), sql, *values)

    def same(self, a, b):
        one, other = dump(self.path(a)), dump(self.path(b))
        for table in TABLES:
            self.assertEqual(one[0][table], other[0][table], table)
        self.assertEqual(one[1], other[1])


class Results(Study):
    def test_rows_are_those_of_a_trace(self):
        """Answer, scalars, series, head scores and tensors equal what `trace` writes for the same picture and question."""
        self.write(self.rows(2), analyses={"flow": {}, "heads": {"samples": 40}, "cliff": {}, "knockout": {}}, tensors="all", seed=3)
        self.works("--quiet")
        for example, picture in ((0, "a.png"), (1, "b.png")):
            r = self.work("trace", "--seed", "3", "--samples", "40", "--no-report", "--quiet", "--force", "--out", "run", image=self.path("photos", picture))
            self.assertEqual(r.returncode, 0, r.stderr.decode())
            run = test_cli.read_json(self.path("run", "run.json"))
            tensors = test_cli.read_tensors(self.path("run", "tensors.safetensors"))
            own = test_cli.read_tensors(self.path("study", "tensors", f"{example:08d}.safetensors"))
            for name, value in own.items():
                self.assertEqual(value, tensors[name], name)
            for name in ("flow.share", "heads.score", "heads.masks", "cliff.logit", "knockout.change", "image.feature"):
                self.assertIn(name, own)
            answer, tokens, image_hash = self.ask("SELECT answer, tokens, image_hash FROM example WHERE example = ?", example)[0]
            self.assertEqual((answer, image_hash), (run["prompt"]["answer"], run["image"]["hash"]))
            self.assertEqual([t["id"] for t in json.loads(tokens)], [t["id"] for t in run["tokens"] if "logit" in t])
            near = lambda a, b: a == b or abs(a - b) <= 1e-8 * abs(b)  # run.json holds 9 digits
            for analysis, name in (("flow", "image_share"), ("cliff", "logit")):
                values = [v for v, in self.ask('SELECT value FROM series WHERE example = ? AND analysis = ? AND name = ? ORDER BY "index"', example, analysis, name)]
                self.assertEqual(len(values), len(run["analyses"][analysis][name]))
                self.assertTrue(all(map(near, values, run["analyses"][analysis][name])), name)
            scalar = lambda a, n: self.ask("SELECT value FROM scalar WHERE example = ? AND analysis = ? AND name = ?", example, a, n)[0][0]
            self.assertTrue(near(scalar("heads", "regression.fit.pearson"), run["analyses"]["heads"]["regression"]["fit"]["pearson"]))
            self.assertEqual(scalar("cliff", "layer"), run["analyses"]["cliff"]["layer"])
            score = struct.unpack(f"<{len(tensors['heads.score'][2]) // 4}f", tensors["heads.score"][2])
            rows = self.ask("SELECT score, layer, head FROM head WHERE example = ? ORDER BY layer, head", example)
            self.assertEqual([row[0] for row in rows], list(score))
            n_head = run["model"]["n_head"]
            self.assertEqual([row[1] * n_head + row[2] for row in rows], list(range(len(score))))
            share = struct.unpack(f"<{len(tensors['flow.share'][2]) // 4}f", tensors["flow.share"][2])
            _, (n_layer, n_query, _), _ = tensors["flow.share"]
            values = [v for v, in self.ask("SELECT value FROM series WHERE example = ? AND name = 'share.user' ORDER BY \"index\"", example)]
            self.assertEqual(values, [share[il * n_query * 5 + 3] for il in range(n_layer)])

    def test_columns_labels_and_views(self):
        rows = self.rows(4)
        rows[0]["answer"] = None
        self.write(rows, fields={"id": "id"})
        self.works("--quiet")
        answer = self.ask("SELECT answer FROM example WHERE example = 1")[0][0]
        rows[1]["answer"] = f"  {answer.upper()}. "
        rows[2].update({"answer": "no model says this", 'say "so"': "yes"})
        shutil.rmtree(self.path("study"))
        self.write(rows)
        self.works("--quiet")
        columns = self.ask("SELECT example, line, id, image, question, expected, status, error, labels, tensors, correct FROM example ORDER BY 1")
        self.assertEqual(columns[1][:6], (1, 2, "x1", "b.png", "What is in the picture?", rows[1]["answer"]))
        self.assertEqual([c[10] for c in columns[:3]], [None, 1, 0])
        self.assertEqual(json.loads(columns[1][8]), {"kind": "odd", "weight": 0.25})
        self.assertEqual((columns[1][6], columns[1][7], columns[1][9]), ("done", None, None))
        self.assertEqual(os.listdir(self.path("study", "tensors")), [])
        whole = self.ask("SELECT n, correct FROM accuracy WHERE label = ''")
        self.assertEqual(whole[0][0], 3)
        self.assertEqual(dict(self.ask("SELECT value, n FROM accuracy WHERE label = 'kind'")), {"odd": 2, "even": 1})
        self.assertEqual(self.ask("SELECT label, value, n FROM accuracy WHERE label = 'say \"so\"'"), [('say "so"', "yes", 1)])
        self.assertEqual(dict(self.ask("SELECT value, n FROM accuracy WHERE label = 'weight'")), {str(row["weight"]): 1 for row in rows[1:]})
        layers = self.ask("SELECT layer, n, image_share, variance FROM flow_by_layer ORDER BY 1")
        for layer, n, mean, variance in layers:
            values = [v for v, in self.ask("SELECT value FROM series WHERE name = 'image_share' AND \"index\" = ?", layer)]
            self.assertEqual((n, len(values)), (4, 4))
            self.assertAlmostEqual(mean, sum(values) / 4, places=12)
            self.assertAlmostEqual(variance, sum((v - mean) ** 2 for v in values) / 3, places=12)
        self.assertEqual(dict(self.ask("SELECT key, value FROM study WHERE key IN ('examples', 'shard')")), {"examples": "4", "shard": "0/1"})
        self.assertEqual(self.ask("PRAGMA user_version"), [(2,)])
        self.assertEqual(self.ask("PRAGMA journal_mode"), [("wal",)])
        self.assertGreater(self.ask("SELECT count(*) FROM timing WHERE stage = 'flow'")[0][0], 3)

    def test_the_uncut_end_of_a_cliff_is_the_answer(self):
        """However tight the limit of an answer is, the last point of the curve is judged as the answer itself."""
        self.write(self.rows(2), analyses=[], **{"max-tokens": 1})
        self.works("--quiet")
        rows = self.rows(2)
        for row, (answer,) in zip(rows, self.ask("SELECT answer FROM example ORDER BY example")):
            row["answer"] = answer
        self.write(rows, analyses=["cliff", "cam"], **{"max-tokens": 1})
        self.works("--quiet", "--per-token", out="cut")
        self.assertEqual(self.ask("SELECT correct FROM example", folder="cut"), [(1,), (1,)])
        curve = "SELECT value FROM series WHERE name = 'correct' AND \"index\" = (SELECT max(\"index\") FROM series WHERE name = 'correct')"
        self.assertEqual(self.ask(curve, folder="cut"), [(1.0,), (1.0,)])

    def test_fields_have_other_names_and_answers_can_be_forced(self):
        rows = [{"question_id": 7, "image": "a.png", "text": "What is it?", "label": "a cat"}]
        self.write(rows, fields={"id": "question_id", "question": "text", "answer": "label"}, **{"force-answer": True})
        self.works("--quiet")
        self.assertEqual(self.ask("SELECT id, question, expected, answer, correct FROM example"), [("7", "What is it?", "a cat", "a cat", None)])

    def test_summary_is_json(self):
        self.write(self.rows(3))
        r = self.works("--json", "--quiet")
        summary = json.loads(r.stdout)
        self.assertEqual((summary["examples"], summary["done"], summary["failed"], summary["scored"]), (3, 3, 0, 3))


class BadRows(Study):
    def bad(self):
        good = self.rows(2)
        return [good[0], '{"id": "broken", ', dict(good[1], id="gone", image="none.png"), dict(good[1], id="x0"), dict(good[1], id="up", image="../a.png"),
                dict(good[1], id="root", image="/etc/passwd"), dict(good[1], id="text", image="note.png"), dict(good[1], id="mask", mask=3), "[1]", "", good[1]]

    WORDS = ["line 2: ", "line 3: none.png: No such file", 'line 4: the id "x0" is that of line 1 too', "line 5: \"../a.png\": the path leaves", "line 6: ",
             "note.png", 'line 8: "mask": expected a text, found an integer', "line 9: expected a JSON object"]

    def test_they_are_recorded_and_the_rest_goes_on(self):
        with open(self.path("photos", "note.png"), "w") as f:
            f.write("no picture")
        self.write(self.bad())
        r = self.works()
        failures = self.ask("SELECT example, line, error FROM failure ORDER BY 1")
        self.assertEqual([f[1] for f in failures], [2, 3, 4, 5, 6, 7, 8, 9])
        for word, (_, _, error) in zip(self.WORDS, failures):
            self.assertIn(word, error)
            self.assertNotIn(self.dir, error)
        for word in self.WORDS[:5]:
            self.assertIn(word, r.stderr.decode())
        self.assertEqual(self.ask("SELECT line FROM example WHERE status = 'done' ORDER BY 1"), [(1,), (11,)])
        self.assertIn(b"10 of 10 examples done, 8 failed", r.stdout)

    def test_a_study_of_failures_alone_is_one(self):
        """As with `eval`: its own failure, told with the first reason, after the summary."""
        self.write([dict(row, image="none.png") for row in self.rows(3)])
        for args in ((), ("--resume",)):
            r = self.study("--quiet", *args)
            self.assertEqual((r.returncode, r.stdout), (1, b"3 of 3 examples done, 3 failed\n"))
            self.assertTrue(r.stderr.decode().endswith("sightline: no example could be done; the first: data.jsonl, line 1: none.png: No such file or directory\n"))
        self.assertEqual(self.ask("SELECT count(*) FROM failure"), [(3,)])

    def test_labels_that_the_plan_does_not_know(self):
        rows = self.rows(4)
        rows[1]["knd"] = "odd"
        rows[2]["kind"] = "Even"
        rows[3]["weight"] = [1, "x" * 300]
        labels = {"kind": ["even", "odd"], "weight": None}
        self.write(rows, labels=labels)
        r = self.works()
        errors = [e for e, in self.ask("SELECT error FROM failure ORDER BY example")]
        self.assertEqual(errors, ['data.jsonl, line 2: unknown label "knd"', 'data.jsonl, line 3: label "kind": unknown value "Even"'])
        self.assertIn(b'line 3: label "kind"', r.stderr)
        self.write(rows, labels=["kind", "weight", "knd"])
        self.works("--quiet", out="names")
        self.assertEqual(self.ask("SELECT count(*) FROM failure", folder="names"), [(0,)])
        self.fails(self.study("--resume"), 1, '"labels" was ')

    def test_numbers_keep_all_their_digits(self):
        """As labels of rows and in the plan's list of them: what differs in the 10th digit is not one value."""
        times = [1700000123.5 + i for i in range(4)] + [0.3, 0.12345678901330001]
        rows = [dict(row, weight=t) for row, t in zip(self.rows(6), times)]
        self.write(rows, labels={"kind": None, "weight": times}, analyses=[])
        self.works("--quiet")
        self.assertEqual(self.ask("SELECT count(*) FROM failure"), [(0,)])
        self.assertEqual([json.loads(labels)["weight"] for labels, in self.ask("SELECT labels FROM example ORDER BY example")], times)
        self.assertIn('"weight": 0.3}', self.ask("SELECT labels FROM example WHERE example = 4")[0][0])
        self.assertEqual(self.ask("SELECT count(*) FROM accuracy WHERE label = 'weight'"), [(6,)])
        self.works("--resume", "--quiet")
        self.write([dict(rows[0], weight=1700000123.25), rows[1]], labels={"kind": None, "weight": times}, analyses=[])
        self.works("--quiet", out="other")
        self.assertEqual(self.ask("SELECT error FROM failure", folder="other"), [('data.jsonl, line 1: label "weight": unknown value 1700000123.25',)])

    def test_strict_stops_before_the_work(self):
        self.write(self.bad())
        self.fails(self.study("--strict"), 1, "data.jsonl, line 2: ")
        self.assertFalse(os.path.exists(self.path("study")))

    def test_strict_stops_at_a_failing_example_and_keeps_the_others(self):
        with open(self.path("photos", "note.png"), "w") as f:
            f.write("no picture")
        rows = self.rows(3)
        rows[1]["image"] = "note.png"
        self.write(rows)
        self.fails(self.study("--strict", "--quiet"), 1, "note.png")
        self.assertEqual(self.ask("SELECT example FROM example"), [(0,)])


class Plans(Study):
    def refused(self, *words, args=(), **plan):
        self.write(**plan)
        self.fails(self.study(*args), 1, *words)
        self.assertFalse(os.path.exists(self.path("study")))

    def test_what_is_wrong_is_named_with_key_expected_and_found(self):
        self.refused('unknown key "analysis"', "analyses", analysis=["flow"])
        self.refused('"seed": expected a whole number from 0 to', 'found "three"', seed="three")
        self.refused('"max-tokens": expected a whole number from 1 to 65536, found 0', **{"max-tokens": 0})
        self.refused('"analyses": expected any of ', "flow", 'found "flows"', analyses=["flows"])
        self.refused('flow has no option "samples"', analyses={"flow": {"samples": 3}})
        self.refused("samples", "found", analyses={"heads": {"samples": "many"}})
        self.refused('option "samples" is "40" and "50"', analyses={"heads": {"samples": 40}, "tokens": {"samples": 50}})
        self.refused('"tensors": expected "none", "all" or an array of globs, found "some"', tensors="some")
        self.refused('"fields": expected id, image, question, answer or mask, found "ID"', fields={"ID": "id"})
        self.refused('"labels": expected an array of names', labels="kind")
        self.refused('"kind": expected an array of values', labels={"kind": "odd"})
        self.refused('"data": ', "gone.jsonl: No such file", data="gone.jsonl")
        self.refused('"data": expected a JSON-lines file, found nothing', data=None)
        self.refused('"object-threshold": expected a share above 0, at most 1, found 2', **{"object-threshold": 2})

    def test_plans_from_pipes_and_without_a_model(self):
        """A plan can come through a pipe, which is read once; "model": null is no model."""
        self.write(self.rows(1), data=self.path("data.jsonl"), images=self.path("photos"))  # relative paths begin at the plan's folder
        r = subprocess.run(["sh", "-c", 'cat plan.json | "$0" study run --plan /dev/stdin --out piped --quiet', test_cli.PROGRAM], cwd=self.dir,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((r.returncode, r.stdout[:22]), (0, b"1 of 1 examples done, "), r.stderr.decode())
        with open(self.path("plan.json")) as f:
            plan = json.load(f)
        with open(self.path("plan.json"), "w") as f:
            json.dump({**plan, "model": None}, f)
        done = self.run_it("study", "run", "--plan", "plan.json", "--out", "null", "--quiet", env={"SIGHTLINE_MODEL": self.MODEL})
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def test_options_override(self):
        self.write(self.rows(2), seed=1, analyses={"heads": {"samples": 999}})
        self.works("--seed", "4", "--analyses", "flow,lens", "--top", "3", "--tensors", "lens.*", "--quiet")
        plan = json.loads(self.ask("SELECT value FROM study WHERE key = 'plan'")[0][0])
        self.assertEqual((plan["seed"], plan["analyses"], plan["tensors"]), (4, {"flow": {}, "lens": {"top": "3"}}, ["lens.*"]))
        self.assertEqual(self.ask("SELECT DISTINCT analysis FROM series ORDER BY 1"), [("flow",), ("lens",)])
        names = test_cli.read_tensors(self.path("study", "tensors", "00000001.safetensors"))
        self.assertTrue(names and all(name.startswith("lens.") for name in names))

    def test_an_option_is_the_same_in_the_plan_and_on_the_command_line(self):
        self.write(self.rows(2), analyses={"cliff": {"keep-share": 0.3}})
        self.works("--quiet")
        self.works("--quiet", "--resume", "--keep-share", "0.3")
        self.fails(self.study("--quiet", "--resume", "--keep-share", "0.4"), 1, '"keep-share": "0.3"', '"keep-share": "0.4"')

    def test_usage(self):
        self.write()
        self.fails(self.run_it("study"), 2, "study run")
        self.fails(self.run_it("study", "run", "--plan", "plan.json"), 2, "--out DIR")
        for shard in ("2/2", "0/4294967298", "0/0", "-1/2", "1", "1/2/3", "1/ 2", "", "4294967296/4294967297"):
            self.fails(self.study("--shard", shard), 2, "--shard: expected i/n with i from 0 to n - 1 and n at most 2147483647, found")
        self.fails(self.run_it("study", "run", "--plan", "plan.json", "--model", "none", "--out", "no/such"), 1, "no: cannot make a folder here")
        self.fails(self.run_it("study", "report", "study", "--shard", "0/2"), 2, "`study report` has no option --shard")
        self.fails(self.run_it("study", "merge", "a", "b", "--samples", "9"), 2, "`study merge` has no option --samples")
        self.fails(self.run_it("study", "resume"), 2, "resume DIR")
        self.fails(self.run_it("study", "resume", "none"), 1, "none: there is no study to go on with")
        os.mkdir(self.path("folder"))
        os.mkdir(self.path("folder", "x"))
        self.fails(self.run_it("study", "resume", "folder"), 1, "folder: no study")

    def test_wrong_choices_are_usage(self):
        self.write()
        for option, value, words in (("--analyses", "flow,clif", ('"clif"', "did you mean cliff?")), ("--analyses", "nosuch", ('"nosuch"',)), ("--analyses", ",", ('""',)),
                                     ("--object-threshold", "abc", ("share", '"abc"')), ("--object-threshold", "", ("share", '""')),
                                     ("--dtype", "foo", ("expected any of auto, ", '"foo"')), ("--dtype", "", ("expected any of auto, ", '""')),
                                     ("--device", "foo", ("cpu, ref", '"foo"')), ("--device", "", ("cpu, ref", '""'))):
            self.fails(self.study(option, value), 2, *words)
        self.refused('"compute": expected any of auto, ', 'found "f8"', compute="f8")
        self.refused('"backend": unknown device "tpu"', backend="tpu")
        self.refused('"backend": expected a device\'s name, found 3', backend=3)

    def test_nothing_is_a_choice_of_analyses_and_tensors(self):
        self.write(self.rows(2), tensors="all")
        self.works("--quiet", "--analyses", "", "--tensors", "")
        plan = json.loads(self.ask("SELECT value FROM study WHERE key = 'plan'")[0][0])
        self.assertEqual((plan["analyses"], plan["tensors"], plan["raw-prompt"]), ({}, [], False))

    def test_the_model_of_the_plan_is_enough(self):
        """A program without its bundled model looks for none when the plan names one, and says so once when it does not."""
        os.mkdir(self.path("bin"))
        alone = shutil.copy(test_cli.PROGRAM, self.path("bin"))
        environment = {k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"}
        run = lambda out: subprocess.run([alone, "study", "run", "--plan", "plan.json", "--out", out, "--quiet"], cwd=self.dir, env=environment, capture_output=True)
        self.write(self.rows(2))
        r = run("named")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.write(self.rows(2), model=None)
        r = run("none")
        self.fails(r, 1, "no model: ")
        self.assertEqual(r.stderr.count(b"\n"), 1)

class Resuming(Study):
    def test_what_changed_is_refused_by_name(self):
        self.write()
        self.works("--quiet")
        self.fails(self.study("--quiet"), 1, "already exists")
        before = dump(self.path("study"))
        refuse = lambda *words, args=(): self.fails(self.study("--resume", "--quiet", *args), 1, *words)
        refuse('"seed" was 0, now it is 5', args=("--seed", "5"))
        refuse('"analyses" was ', args=("--analyses", "lens"))
        refuse("mode", "f32", "bf16", args=("--dtype", "bf16"))
        refuse("shard 0/1, asked is 1/2", args=("--shard", "1/2"))
        with open(self.path("data.jsonl"), "a") as f:
            f.write("\n")
        refuse("the data differs: the hash of ")
        self.write()
        shutil.copy(self.path("photos", "a.png"), self.path("photos", "b.png"))
        refuse("the picture of line 2 differs")
        self.assertEqual(dump(self.path("study")), before)

    def test_another_model_is_refused(self):
        self.write(self.rows(2))
        self.works("--quiet")
        other = shutil.copytree(self.MODEL, self.path("model"))
        weights = [n for n in os.listdir(other) if n.endswith(".safetensors") and n.startswith("model")]
        with open(os.path.join(other, sorted(weights)[0]), "r+b") as f:
            f.seek(-2, os.SEEK_END)
            byte = f.read(1)
            f.seek(-2, os.SEEK_END)
            f.write(bytes([byte[0] ^ 1]))
        self.fails(self.study("--resume", "--quiet", "--model", other), 1, "the model (hash of its weights) differs")

    def test_another_tokenizer_template_or_processor_is_refused(self):
        """Same weights, other settings: results would not be of one model."""
        model = shutil.copytree(self.MODEL, self.path("model"))
        self.write(self.rows(2), model="model")
        self.works("--quiet")
        for name, old, new in (("tokenizer.json", '"version"', ' "version"'), ("chat_template.json", "ASSISTANT", "Assistant"), ("config.json", "{", "{ "), ("generation_config.json", "{", "{ ")):
            with open(os.path.join(model, name), encoding="utf-8") as f:
                text = f.read()
            self.assertIn(old, text)
            with open(os.path.join(model, name), "w", encoding="utf-8") as f:
                f.write(text.replace(old, new, 1))
            self.fails(self.study("--resume", "--quiet"), 1, "the model's config, tokenizer, processor or template differs")
            with open(os.path.join(model, name), "w", encoding="utf-8") as f:
                f.write(text)
        with open(os.path.join(model, "README.md"), "w") as f:
            f.write("no setting")
        self.works("--resume", "--quiet")

    def refuses_other_settings(self, path):
        """A blank more in the file, and the study does not go on; as it was, it does."""
        with open(path, "r+", encoding="utf-8") as f:
            text = f.read()
            f.write("\n")
        self.fails(self.study("--resume", "--quiet"), 1, "the model's config, tokenizer, processor or template differs")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        self.works("--resume", "--quiet")

    def test_another_tower_that_was_found_is_refused(self):
        """The tower's folder is named by nobody: it lies beside the model."""
        golden = os.path.join(test_cli.GOLDEN, "..", "llava-original")
        shutil.copytree(golden, self.path("model"), ignore=shutil.ignore_patterns("vision", "golden.*"))
        tower = shutil.copytree(os.path.join(golden, "vision"), self.path("clip-vit-large-patch14-336"))
        self.write(self.rows(2), model="model", analyses=[])
        self.works("--quiet")
        self.refuses_other_settings(os.path.join(tower, "preprocessor_config.json"))

    def test_another_question_tokenizer_is_refused(self):
        """A Q-Former reads the question with a tokenizer of its own, in a folder below the model."""
        golden = os.path.join(test_cli.GOLDEN, "..", "instructblip")
        model = shutil.copytree(golden, self.path("model"), ignore=shutil.ignore_patterns("golden.*"))
        self.write(self.rows(2), model="model", analyses=[])
        self.works("--quiet")
        self.refuses_other_settings(os.path.join(model, "qformer_tokenizer", "vocab.txt"))

    def test_another_mask_is_refused(self):
        shutil.copy(self.path("photos", "a.png"), self.path("photos", "mask.png"))
        self.write([dict(row, image="a.png", mask="mask.png") for row in self.rows(2)])
        self.works("--quiet")
        self.works("--resume", "--quiet")
        shutil.copy(self.path("photos", "b.png"), self.path("photos", "mask.png"))
        self.fails(self.study("--resume", "--quiet"), 1, "the mask of line 1 differs")

    def test_failures_can_be_done_again(self):
        rows = self.rows(4)
        rows[1]["image"] = "late.png"
        self.write(rows)
        self.works("--quiet")
        self.assertEqual(self.ask("SELECT count(*) FROM failure"), [(1,)])
        shutil.copy(self.path("photos", "a.png"), self.path("photos", "late.png"))
        self.works("--resume", "--quiet")
        self.assertEqual(self.ask("SELECT count(*) FROM failure"), [(1,)])
        self.works("--resume", "--retry-failed", "--quiet")
        self.works("--quiet", out="whole")
        self.same("study", "whole")

    def test_a_finished_study_stays_as_it_is(self):
        self.write(self.rows(2))
        self.works("--quiet")
        before = dump(self.path("study"))
        self.assertEqual(self.run_it("study", "resume", "study", "--quiet").returncode, 0)
        self.assertEqual(dump(self.path("study")), before)

    def test_interrupt_keeps_what_was_complete(self):
        self.write(self.rows(400))
        p = subprocess.Popen([test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", "study", "--quiet"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_for(2)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=100)
        self.assertEqual(p.returncode, 130, err.decode())
        self.assertIn(b"study resume study", err)
        n = self.ask("SELECT count(*) FROM example")[0][0]
        self.assertTrue(2 <= n < 400, n)
        self.assertEqual(self.ask("SELECT count(*) FROM failure")[0][0], 0)

    def wait_for(self, n):
        for _ in range(6000):
            try:
                if self.ask("SELECT count(*) FROM example")[0][0] >= n:
                    return
            except sqlite3.OperationalError:
                pass
            time.sleep(0.01)
        self.fail("no examples after a minute")

    def test_two_processes_do_not_share_a_study(self):
        self.write(self.rows(2000))
        p = subprocess.Popen([test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", "study", "--quiet"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_for(1)
        self.fails(self.run_it("study", "resume", "study"), 1, "another process")
        p.kill()
        p.communicate()


class Places(Study):
    def test_names_that_are_not_utf8(self):
        """Folders are bytes; the summary is JSON, and says what can be said."""
        self.write(self.rows(2))
        name, merged = os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9s")
        self.assertEqual(json.loads(self.works("--quiet", "--json", out=name).stdout)["out"], "caf\ufffd")
        r = self.run_it("study", "merge", "--quiet", "--json", merged, name)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertEqual(json.loads(r.stdout)["out"], "caf\ufffds")
        r = self.run_it("study", "report", merged, "--quiet", "--json")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertEqual(json.loads(r.stdout)["report"], "caf\ufffds/report.html")
        self.assertTrue(os.path.exists(self.path(merged, "report.html")))
        self.same(name, merged)

    def test_a_place_that_cannot_be(self):
        self.write(self.rows(2))
        self.fails(self.study(out="data.jsonl/x"), 1, "data.jsonl/x: Not a directory")
        self.fails(self.study(out="data.jsonl"), 1, "data.jsonl: already exists")
        self.fails(self.run_it("study", "merge", "data.jsonl/x", "study"), 1, "data.jsonl/x: Not a directory")


class Killed(Study):
    """kill -9 at 20 random moments."""

    def n_done(self):
        try:
            return len(ask(self.path("cut"), "SELECT 1 FROM example"))
        except sqlite3.OperationalError:  # no database yet, or none with tables
            return 0

    def survives(self, n, legs, seed):
        """A study of n examples, killed 20 times: each call while it reads the model, or in one of its first `legs` examples,
        however fast the machine is at that moment."""
        since = time.monotonic()
        self.works("--quiet", out="whole")
        each_s = (time.monotonic() - since) / n
        since = time.monotonic()
        self.run_it("study", "resume", "whole", "--quiet")
        start_s = time.monotonic() - since
        moments, killed, done = random.Random(seed), 0, [0]
        while killed < 20:
            wanted = moments.randrange(legs + 1)
            p = subprocess.Popen([test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", "cut", "--resume", "--quiet"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while wanted > 0 and p.poll() is None and self.n_done() < done[-1] + wanted:
                time.sleep(each_s / 20)
            time.sleep(moments.uniform(0, each_s if wanted > 0 else start_s))
            p.kill()
            p.communicate()
            self.assertIn(p.returncode, (0, -signal.SIGKILL))
            killed += p.returncode != 0
            done.append(self.n_done())
            if done[-1] == n:  # the end came first: once more from the beginning
                self.same("cut", "whole")
                shutil.rmtree(self.path("cut"))
                done.append(0)
        self.assertGreater(len(set(done)), 5, done)  # moments differ
        self.works("--resume", "--quiet", out="cut")
        self.same("cut", "whole")
        self.assertEqual([n for n in os.listdir(self.path("cut", "tensors")) if n.startswith(".")], [])

    def test_where_most_of_the_time_goes_to_writing(self):
        self.write(self.rows(300), tensors=["flow.*"], **{"max-tokens": 1})
        self.survives(300, 24, 7)


class KilledBundled(Killed):
    MODEL = BUNDLED
    test_where_most_of_the_time_goes_to_writing = None

    def test_on_the_bundled_model(self):
        pictures = ["cat.png", "lion.png", "tree.png", "rose.png"]
        self.write([dict(row, image=pictures[i % 4]) for i, row in enumerate(self.rows(16))], images=EXAMPLES, tensors=["flow.*"], **{"max-tokens": 1})
        self.survives(16, 2, 8)


class FullDisk(Study):
    def cut(self, limit):
        """Whether a call on a disk whose files have at most `limit` bytes stopped; how it must stop."""
        command = [test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", "cut", "--resume", "--quiet"]
        r = subprocess.run(command, cwd=self.dir, capture_output=True, preexec_fn=small_disk(limit), timeout=100)
        if r.returncode == 0:
            return False
        self.assertEqual((r.returncode, r.stdout), (1, b""), r.stderr.decode())
        self.assertRegex(r.stderr.decode(), r"^sightline: [^\n]*(cannot write|disk I/O error)[^\n]*\n$")
        if os.path.exists(self.path("cut")):
            self.assertEqual(ask(self.path("cut"), "SELECT count(*) FROM failure"), [(0,)])  # no fault of the example
        return True

    def test_no_room_for_rows(self):
        self.write(self.rows(24), tensors="all", analyses=["flow", "lens", "cliff"])
        self.works("--quiet", out="whole")
        self.assertGreaterEqual(sum(self.cut(limit) for limit in (30_000, 60_000, 90_000, 150_000, 300_000)), 2)
        self.works("--resume", "--quiet", out="cut")
        self.same("cut", "whole")

    def test_no_room_for_tensors(self):
        self.write([dict(row, image="cat.png") for row in self.rows(2)], model=BUNDLED, images=EXAMPLES, tensors="all", analyses={"flow": {}, "lens": {}, "cam": {"alpha": True}})
        self.works("--quiet", out="whole")
        smallest = min(os.path.getsize(self.path("whole", "tensors", n)) for n in os.listdir(self.path("whole", "tensors")))
        self.assertGreater(smallest, 100_000)
        self.assertTrue(self.cut(100_000))
        self.assertEqual(ask(self.path("cut"), "SELECT count(*) FROM example"), [(0,)])  # the database had room
        self.assertEqual(os.listdir(self.path("cut", "tensors")), [])
        self.works("--resume", "--quiet", out="cut")
        self.same("cut", "whole")


class Shards(Study):
    def parts(self, n, **plan):
        self.write(self.rows(7), tensors=["flow.stats"], **plan)
        for i in range(n):
            self.works("--quiet", "--shard", f"{i}/{n}", out=f"part{i}")

    def test_merged_shards_are_the_whole(self):
        self.parts(3)
        self.assertEqual(self.ask("SELECT example FROM example ORDER BY 1", folder="part1"), [(1,), (4,)])
        r = self.run_it("study", "merge", "merged", "part2", "part0", "part1", "--quiet")
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.works("--quiet", out="whole")
        self.same("merged", "whole")

    def test_shards_started_by_slurm_are_on_their_own(self):
        self.write(self.rows(3))
        r = self.study("--quiet", "--shard", "1/2", env=dict(os.environ, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1"))
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertEqual(self.ask("SELECT example FROM example"), [(1,)])

    def test_missing_ones_are_named_and_can_be_done(self):
        self.parts(3)
        r = self.run_it("study", "merge", "merged", "part0", "part1")
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertIn(b"missing examples: 2, 5", r.stdout)
        self.assertEqual(self.run_it("study", "resume", "merged", "--quiet").returncode, 0)
        self.works("--quiet", out="whole")
        self.same("merged", "whole")

    def test_what_does_not_belong_together_is_refused(self):
        self.parts(2)
        merge = lambda *dirs: self.run_it("study", "merge", "merged", *dirs)
        self.fails(merge("part0", "part1", "part0"), 1, 'part0: example 0 (id "x0") is in an earlier part too')
        self.works("--quiet", "--shard", "1/2", "--seed", "9", out="other")
        self.fails(merge("part0", "other"), 1, "other: the plan (hash) differs")
        rows = self.rows(7)
        rows[0]["question"] = "What?"
        self.write(rows, name="more.jsonl", tensors=["flow.stats"])
        self.works("--quiet", "--shard", "1/2", out="more")
        self.fails(merge("part0", "more"), 1, "more: the data (hash of the file) differs")
        os.mkdir(self.path("none"))
        self.fails(merge("part0", "none"), 1, "none: no study")
        self.assertEqual([n for n in os.listdir(self.dir) if "merged" in n], [])

    def test_two_versions_of_a_picture_are_refused(self):
        """Also of a mask, and in a part that is not the first."""
        shutil.copy(self.path("photos", "a.png"), self.path("photos", "mask.png"))
        rows = [dict(row, image="a.png", mask=f"{'other' if i < 2 else 'mask'}.png") for i, row in enumerate(self.rows(6))]
        self.write(rows)
        with open(os.path.join(test_cli.GOLDEN, "a.png"), "rb") as f:
            picture = f.read()

        def put(name, behind=b""):
            """A picture, with something that no decoder reads behind it: another version."""
            with open(self.path("photos", name), "wb") as f:
                f.write(picture + behind)

        part = lambda i, out: self.works("--quiet", "--shard", f"{i}/3", out=out)
        merge = lambda *dirs: self.run_it("study", "merge", "merged", *dirs)
        put("mask.png")
        put("other.png")
        part(0, "part0")
        part(1, "part1")
        put("a.png", b"again")
        part(2, "picture2")
        put("a.png")
        put("mask.png", b"again")
        part(2, "mask2")
        self.fails(merge("part1", "part0", "picture2"), 1, "picture2: the picture a.png differs from the one in part1: its hash is ")
        self.fails(merge("part0", "part1", "mask2"), 1, "mask2: the picture mask.png differs from the one in part0: its hash is ")
        put("mask.png")
        part(2, "part2")
        self.assertEqual(merge("part0", "part1", "part2").returncode, 0)

    def test_a_damaged_part_is_named(self):
        self.parts(2)
        with open(self.path("part1", "study.sqlite"), "r+b") as f:
            f.seek(-4096, os.SEEK_END)
            f.write(b"\xff" * 200)
        r = self.run_it("study", "merge", "merged", "part0", "part1")
        self.fails(r, 1, "part1/study.sqlite: ", "damaged: ")
        self.fails(self.run_it("study", "resume", "part1"), 1, "part1/study.sqlite: damaged: ")

    def stopped_at_work(self, args, hidden, out):
        """A process that stands still while it builds a hidden folder and holds it; too quick ones are begun again."""
        for _ in range(50):
            p = subprocess.Popen([test_cli.PROGRAM, *args], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while p.poll() is None and not hidden():
                pass
            if p.returncode is None:
                p.send_signal(signal.SIGSTOP)
                state = os.waitid(os.P_PID, p.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if state.si_code == os.CLD_STOPPED and hidden() and is_held(self.path(hidden()[0])):
                    return p
                p.send_signal(signal.SIGCONT)
            p.communicate()
            shutil.rmtree(self.path(out), ignore_errors=True)
        self.fail("no process stood still in time")

    def test_merges_into_one_place(self):
        """One that is at it is not disturbed by another, and does not replace what the other made."""
        self.parts(2)
        for i in range(2):
            shutil.copytree(self.path(f"part{i}"), self.path(f"copy{i}"))  # the first merge may hold a part
        hidden = lambda: [n for n in os.listdir(self.dir) if n.startswith(".merged.partial-")]
        p = self.stopped_at_work(["study", "merge", "--quiet", "merged", "part0", "part1"], hidden, "merged")
        stopped = hidden()
        self.assertEqual(len(stopped), 1)
        self.assertEqual(self.run_it("study", "merge", "--quiet", "merged", "copy0", "copy1").returncode, 0)
        self.assertEqual(hidden(), stopped)
        with open(self.path("merged", "mine.txt"), "w") as f:
            f.write("somebody's")
        p.send_signal(signal.SIGCONT)
        _, err = p.communicate()
        self.assertEqual((p.returncode, err.decode()), (1, "sightline: merged: already exists\n"))
        self.assertTrue(os.path.exists(self.path("merged", "mine.txt")))
        self.assertEqual(hidden(), [])


if __name__ == "__main__":
    test_cli.PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
