"""`eval` as a user meets it: the pocket editions, others' predictions, resuming, bad data, exit codes.

    python3 tests/test_eval.py path/to/sightline [unittest arguments]
"""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
GOLDEN = os.path.join(HERE, "golden", "metric")
POCKET = os.path.join(ROOT, "examples", "eval")
MODEL = os.path.join(ROOT, "models", "pocket-llava")
PROGRAM = "sightline"


def read(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Eval(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="sl-eval-")
        self.addCleanup(shutil.rmtree, self.dir)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def eval(self, name, data, *args, code=0):
        done = subprocess.run([PROGRAM, "eval", name, "--data", data, "--json", "--quiet", *args], cwd=self.dir,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if code == 0 else done.stderr

    def pocket(self, name, *args, **more):
        folder = os.path.join(POCKET, name.replace("-", "_"))
        images = [] if name in ("textvqa", "scienceqa") else ["--images", os.path.join(POCKET, "images")]
        style = {"pope": ["--prompt-style", "plain"], "scienceqa": ["--prompt-style", "lines"],
                 "textvqa": ["--prompt-style", "plain"]}.get(name, [])
        return self.eval(name, folder, "--model", MODEL, "--out", self.path(name), *images, *style, *args, **more)

    # What the model answers on the first questions is easy: the bundled model knows these scenes.
    def test_pocket_pope(self):
        said = self.pocket("pope", "--limit", "8", "--cliff")
        self.assertGreaterEqual(said["metrics"]["accuracy"], 0.75)
        curve = said["cliff"]["curve"]
        self.assertEqual([p["first_hidden_layer"] for p in curve], list(range(13)))
        self.assertLess(curve[0]["accuracy"], curve[12]["accuracy"])
        self.assertEqual(curve[12]["accuracy"], said["metrics"]["accuracy"])
        self.assertEqual(curve[12]["difference"]["value"], 0)
        self.check_curve(said, "accuracy", "f1")
        rows = read_lines(self.path("pope", "predictions.jsonl"))
        self.assertEqual([r["question_id"] for r in rows], [f"random/{i}" for i in range(1, 9)])
        self.assertTrue(all(len(r["layers"]) == 12 for r in rows))
        for k in (0, 2):  # a point of the curve is what these answers get as somebody's predictions
            with open(self.path("said.jsonl"), "w", encoding="utf-8") as f:
                f.writelines(json.dumps({"question_id": r["question_id"], "text": r["layers"][k]}) + "\n" for r in rows)
            scored = self.eval("pope", os.path.join(POCKET, "pope"), "--predictions", self.path("said.jsonl"), "--limit", "8")
            for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
                self.assertEqual(scored["metrics"][key], curve[k][key])
        self.assertEqual(read(self.path("pope", "metrics.json")), said)
        self.assertEqual(sorted(os.listdir(self.path("pope"))), ["metrics.json", "predictions.jsonl", "report.html"])

    def test_truncation_is_the_same_as_cliff(self):
        """The answer with the picture hidden from a layer on is that of `cliff` and of a plan."""
        said = self.pocket("main-object", "--limit", "1", "--cliff", "--max-tokens", "6")
        self.assertEqual((said["cliff"]["layer"], said["cliff"]["curve"][3]["difference"]["low"]), (12, None))  # one picture shows nothing of others
        row = read_lines(self.path("main-object", "predictions.jsonl"))[0]
        picture = os.path.join(POCKET, "images", row["image"])
        for k in (0, 11):  # the picture stands at positions 4 to 147 of every prompt of this model
            plan = {"attend": [{"layers": f"{k}-", "queries": "148-", "keys": "4-147", "source": "hidden"}]}
            with open(self.path("plan.json"), "w", encoding="utf-8") as f:
                json.dump(plan, f)
            done = subprocess.run([PROGRAM, "ask", "--model", MODEL, "--image", picture, "--prompt", row["prompt"], "--plan",
                                   self.path("plan.json"), "--max-tokens", "6", "--json", "--quiet"],
                                  stdout=subprocess.PIPE, text=True, check=True)
            self.assertEqual(json.loads(done.stdout)["plan_answer"]["text"], row["layers"][k])

    def test_answers_are_those_of_ask(self):
        """On families whose templates end in other ways, with and without room for long answers."""
        picture = os.path.join(POCKET, "images", "000001.jpg")
        with open(self.path("one.json"), "w", encoding="utf-8") as f:
            f.write(json.dumps({"question_id": 1, "image": "000001.jpg", "text": "A dog?", "label": "no"}) + "\n")
        for family in ("llava-gqa", "idefics3", "smolvlm", "qwen2-vl", "gemma3", "instructblip", "internvl-native", "qwen-vl"):
            model = ["--model", os.path.join(HERE, "golden", family), "--max-tokens", "20"]
            said = self.eval("pope", self.path("one.json"), *model, "--images", os.path.join(POCKET, "images"), "--prompt-style",
                             "plain", "--out", self.path("out"), "--force", "--cliff")
            self.assertEqual(said["counts"]["failed"], 0, (family, said["errors"]))
            done = subprocess.run([PROGRAM, "ask", *model, "--image", picture, "--prompt", "A dog?", "--json", "--quiet", "--out",
                                   self.path("ask"), "--force"], stdout=subprocess.PIPE, text=True, check=True)
            row = read_lines(self.path("out", "predictions.jsonl"))[0]
            self.assertEqual(row["text"], json.loads(done.stdout)["prompt"]["answer"].strip(), family)

    def check_curve(self, said, main, *others):
        """One point for every layer and one for none; the last is the whole model; this run beside the paper's table."""
        curve, own = said["cliff"]["curve"], said["paper"]["own"]
        self.assertEqual(len(curve), 13)
        self.assertEqual((said["cliff"]["of"], curve[12][main]), (main, said["metrics"][main]))
        sign, worst = (-1, "high") if main == "chair_s" else (1, "low")  # the end of the interval that may not pass one point
        for point in curve:
            self.assertAlmostEqual(point["difference"]["value"], point[main] - curve[12][main], 7)
        for layer, end in ((said["cliff"]["layer"], worst), (said["cliff"]["estimate"]["layer"], "value")):
            lost = [k for k, point in enumerate(curve) if sign * point["difference"][end] < -0.01 - 1e-9]
            self.assertEqual(layer, lost[-1] + 1 if lost else 0)
        self.assertEqual([row["metric"] for row in own], [main, *others])
        for row in own:
            self.assertAlmostEqual(row["whole_percent"], 100 * said["metrics"][row["metric"]], 6)
            self.assertAlmostEqual(row["truncated_percent"], 100 * curve[said["cliff"]["layer"]][row["metric"]], 6)
        self.assertEqual({row["model"] for row in said["paper"]["rows"] if row["same_family"]}, {"LLaVA-1.5"})

    def test_pocket_scienceqa(self):
        said = self.pocket("scienceqa", "--limit", "4", "--max-tokens", "2", "--cliff")
        self.check_curve(said, "accuracy")
        self.assertGreaterEqual(said["metrics"]["accuracy"], 0.6)
        self.assertEqual(list(said["metrics"]["groups"]), ["image"])

    def test_question_without_picture(self):
        """A question of text alone is answered without seeing the picture that carries it: questions that do need one, put
        without theirs, get the same answers whichever picture that is."""
        folder = self.path("sqa")
        pictures = os.path.join(POCKET, "scienceqa", "images", "test")
        shutil.copytree(os.path.join(pictures, "5"), os.path.join(folder, "images", "test", "5"))
        problems = read(os.path.join(POCKET, "scienceqa", "problems.json"))
        text = [k for k, v in problems.items() if v["image"]][1:5]
        with open(os.path.join(folder, "problems.json"), "w", encoding="utf-8") as f:
            json.dump({"5": problems["5"], **{k: {**problems[k], "image": None} for k in text}}, f)
        with open(os.path.join(folder, "pid_splits.json"), "w", encoding="utf-8") as f:
            json.dump({"test": ["5", *text]}, f)
        answers = []
        for picture in ("5", *text[:2]):
            shutil.copy(os.path.join(pictures, picture, "image.jpg"), os.path.join(folder, "images", "test", "5"))
            said = self.eval("scienceqa", folder, "--model", MODEL, "--prompt-style", "lines", "--cliff", "--max-tokens", "2",
                             "--out", self.path("out"), "--force")
            rows = read_lines(self.path("out", "predictions.jsonl"))[1:]
            for row in rows:
                self.assertEqual(row["layers"], [row["text"]] * 12)
            answers.append([row["text"] for row in rows])
            self.assertEqual(said["counts"]["without_picture"], 4)
        self.assertEqual(answers, [answers[0]] * 3)

    def test_pocket_textvqa(self):
        said = self.pocket("textvqa", "--limit", "4", "--max-tokens", "6", "--cliff")
        self.check_curve(said, "accuracy")
        self.assertGreaterEqual(said["metrics"]["accuracy"], 0.6)

    def test_pocket_chair(self):
        said = self.pocket("chair", "--limit", "4", "--max-tokens", "32", "--cliff")
        self.check_curve(said, "chair_s", "chair_i")
        self.assertGreater(said["metrics"]["recall"], 0.3)
        self.assertLessEqual(said["metrics"]["chair_i"], 0.5)

    def test_predictions(self):
        """Somebody's answers are scored without a model, as the official scripts do."""
        said = self.eval("pope", os.path.join(GOLDEN, "pope"), "--predictions", os.path.join(GOLDEN, "pope", "answers.jsonl"))
        expected = read(os.path.join(GOLDEN, "pope", "expected.json"))["groups"]
        for split, numbers in expected.items():
            for key, value in numbers.items():
                self.assertAlmostEqual(said["metrics"]["groups"][split][key], value, places=8)
        said = self.eval("scienceqa", os.path.join(GOLDEN, "scienceqa"), "--rule", "llava-ce1aa08", "--predictions",
                         os.path.join(GOLDEN, "scienceqa", "answers.jsonl"))
        expected = read(os.path.join(GOLDEN, "scienceqa", "expected.json"))["llava-ce1aa08"]
        self.assertAlmostEqual(said["metrics"]["accuracy"], expected["accuracy"], places=8)
        with open(self.path("other.jsonl"), "w", encoding="utf-8") as f:  # another set's
            f.write('{"id": "none of these", "text": "A"}\n')
        error = self.eval("scienceqa", os.path.join(GOLDEN, "scienceqa"), "--predictions", self.path("other.jsonl"), code=1)
        self.assertIn("other.jsonl: no prediction for any of the", error)
        self.assertIn('line 1: no example has the id "none of these"', error)
        self.assertEqual(os.listdir(self.dir), ["other.jsonl"])

    def test_options_of_a_model_without_one(self):
        for option in ("--model", "--vision-model", "--dtype", "--device", "--batch-size", "--max-tokens"):
            error = self.eval("pope", os.path.join(GOLDEN, "pope"), "--predictions", os.path.join(GOLDEN, "pope", "answers.jsonl"), option, "1",
                              code=2)
            self.assertIn(f"{option} is for a model", error)

    def test_resume(self):
        """Interrupted, then killed, then resumed: the files of an uninterrupted run."""
        args = ("--limit", "12", "--cliff", "--max-tokens", "2")
        whole = self.pocket("main-object", *args)
        shutil.move(self.path("main-object"), self.path("whole"))
        command = [PROGRAM, "eval", "main-object", "--data", os.path.join(POCKET, "main_object"), "--images",
                   os.path.join(POCKET, "images"), "--model", MODEL, "--out", self.path("main-object"), "--json", "--quiet", *args]
        partial = self.path("main-object", "predictions.partial.jsonl")
        for n_line, how, code in ((3, signal.SIGINT, 130), (6, signal.SIGKILL, -9)):
            more = ["--resume"] if os.path.exists(partial) else []
            with subprocess.Popen(command + more, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                limit = time.time() + 100
                while time.time() < limit and not (os.path.exists(partial) and len(read_whole(partial)) >= n_line):
                    time.sleep(0.005)
                process.send_signal(how)
                process.communicate()
            self.assertEqual(process.returncode, code)
            self.assertFalse(os.path.exists(self.path("main-object", "metrics.json")))
        with open(partial, "ab") as f:
            f.write(b'{"question_id": "14", "te')  # a torn line
        self.assertIn("made with another", self.pocket("main-object", "--limit", "12", "--resume", code=1))
        self.assertIn("holds results already", self.pocket("main-object", *args, code=1))
        again = self.pocket("main-object", *args, "--resume")
        for said in (whole, again):
            said.pop("command")
        self.assertEqual(again, whole)
        self.assertEqual(read_lines(self.path("main-object", "predictions.jsonl")), read_lines(self.path("whole", "predictions.jsonl")))
        self.assertEqual(self.pocket("main-object", *args, "--resume")["metrics"], whole["metrics"])  # nothing left to do

    def test_what_changed_is_refused(self):
        """Answers about two pictures of one name, or with two tokenizers, do not come together."""
        pictures, model, journal = self.path("pictures"), self.path("model"), self.path("out", "predictions.partial.jsonl")
        shutil.copytree(MODEL, model)
        os.mkdir(pictures)
        for name in ("000001.jpg", "000002.jpg"):
            shutil.copy(os.path.join(POCKET, "images", name), pictures)
        data = os.path.join(POCKET, "main_object")
        args = ("--model", model, "--images", pictures, "--limit", "2", "--max-tokens", "2", "--out", self.path("out"))
        whole = self.eval("main-object", data, *args)
        shutil.rmtree(self.path("out"))
        small = len(json.dumps({"settings": whole["settings"]})) + 120  # room for one answer
        done = subprocess.run([PROGRAM, "eval", "main-object", "--data", data, "--quiet", *args], stderr=subprocess.PIPE, text=True,
                              preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
                                                  resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))), check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(len(read_whole(journal)), 2)
        first = os.path.join(pictures, "000001.jpg")
        os.rename(first, self.path("first.jpg"))
        shutil.copy(os.path.join(pictures, "000002.jpg"), first)
        self.assertIn("000001.jpg is not the one", self.eval("main-object", data, *args, "--resume", code=1))
        os.replace(self.path("first.jpg"), first)
        with open(os.path.join(model, "tokenizer_config.json"), "a", encoding="utf-8") as f:
            f.write("\n")
        self.assertIn('made with another "model_files_hash"', self.eval("main-object", data, *args, "--resume", code=1))
        shutil.copy(os.path.join(MODEL, "tokenizer_config.json"), model)
        again = self.eval("main-object", data, *args, "--resume")
        for said in (whole, again):
            said.pop("command")
        self.assertEqual(again, whole)

    def test_long_answers(self):
        """Long answers take another way than short ones; neither it nor the size of batches changes a word."""
        rows = []
        for tokens, batch in (("40", "4"), ("300", "1")):
            self.pocket("chair", "--limit", "2", "--max-tokens", tokens, "--batch-size", batch, "--cliff", "--force")
            rows.append(read_lines(self.path("chair", "predictions.jsonl")))
        self.assertGreater(len(rows[0][0]["text"].split()), 12)
        self.assertEqual(*rows)

    def test_another_rule(self):
        """The answers of a finished run are judged anew, not asked again."""
        first = self.pocket("main-object", "--limit", "3", "--max-tokens", "3")
        rows = read_lines(self.path("main-object", "predictions.jsonl"))
        for row in rows:
            row["text"] = "It is a " + row["text"]
        with open(self.path("main-object", "predictions.jsonl"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
        self.assertEqual(self.pocket("main-object", "--limit", "3", "--max-tokens", "3", "--resume"), {**first, "command": first["command"]})
        again = self.pocket("main-object", "--limit", "3", "--max-tokens", "3", "--resume", "--rule", "contains")
        self.assertEqual((again["rule"], again["metrics"]["accuracy"]), ("contains", first["metrics"]["accuracy"]))
        self.assertEqual([r["text"] for r in read_lines(self.path("main-object", "predictions.jsonl"))], [r["text"] for r in rows])
        again = self.pocket("main-object", "--limit", "3", "--max-tokens", "3", "--resume", "--rule", "word")
        self.assertEqual(again["metrics"]["accuracy"], 0)

    def test_pictures_are_drawn(self):
        """Ten questions about a picture that say the same are no more than one: the interval stays as wide."""
        with open(self.path("random.json"), "w", encoding="utf-8") as f, open(self.path("said.jsonl"), "w", encoding="utf-8") as g:
            for n in range(300):
                f.write(json.dumps({"question_id": n, "image": f"{n % 30}.jpg", "text": "?", "label": "yes"}) + "\n")
                g.write(json.dumps({"question_id": n, "text": "yes" if n % 3 else "no"}) + "\n")
        interval = self.eval("pope", self.path("random.json"), "--predictions", self.path("said.jsonl"))["interval"]
        with open(self.path("random.json"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"question_id": n, "image": f"{n}.jpg", "text": "?", "label": "yes"}) + "\n" for n in range(30))
        with open(self.path("said.jsonl"), "w", encoding="utf-8") as g:
            g.writelines(json.dumps({"question_id": n, "text": "yes" if n % 3 else "no"}) + "\n" for n in range(30))
        one = self.eval("pope", self.path("random.json"), "--predictions", self.path("said.jsonl"))["interval"]
        self.assertGreater(one["high"] - one["low"], 0.25)  # 4 standard errors of 30 answers are 0.34, of 300 0.11
        for key in ("value", "low", "high"):
            self.assertAlmostEqual(interval[key], one[key], 9)

    def test_missing_pictures(self):
        data = self.path("pope.json")
        os.mkdir(self.path("pictures"))
        os.symlink(os.path.join(POCKET, "images", "000001.jpg"), self.path("pictures", "there.jpg"))  # a link is the owner's own
        os.mkdir(self.path("pictures", "folder.jpg"))
        with open(self.path("pictures", "torn.jpg"), "wb") as f:
            f.write(b"\xff\xd8\xff\xe0no more")
        names = ["there.jpg", "none.jpg", "folder.jpg", "torn.jpg", "there.jpg"]
        with open(data, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"question_id": i, "image": name, "text": "Is there a dog in the image?", "label": "no"}) + "\n"
                         for i, name in enumerate(names))
        args = ("--model", MODEL, "--prompt-style", "plain", "--max-tokens", "2", "--out", self.path("out"))
        said = self.eval("pope", data, "--images", self.path("pictures"), *args)
        self.assertEqual((said["counts"]["failed"], said["counts"]["answered"], said["metrics"]["count"]), (3, 2, 2))
        self.assertEqual([e["line"] for e in said["errors"]], [2, 3, 4])
        for entry, name in zip(said["errors"], names[1:4]):
            self.assertIn(f"pope.json: line {entry['line']}: ", entry["error"])
            self.assertIn(name, entry["error"])
        shutil.copy(os.path.join(POCKET, "images", "000002.jpg"), self.path("pictures", "none.jpg"))
        said = self.eval("pope", data, "--images", self.path("pictures"), *args, "--resume")  # what failed is asked again
        self.assertEqual((said["counts"]["failed"], said["counts"]["answered"]), (2, 3))
        os.remove(self.path("pictures", "none.jpg"))
        for name, line in (("none.jpg", 2), ("torn.jpg", 4)):
            if line == 4:
                shutil.copy(os.path.join(POCKET, "images", "000002.jpg"), self.path("pictures", "none.jpg"))
                os.rmdir(self.path("pictures", "folder.jpg"))
                shutil.copy(os.path.join(POCKET, "images", "000002.jpg"), self.path("pictures", "folder.jpg"))
            error = self.eval("pope", data, "--images", self.path("pictures"), *args, "--strict", "--force", code=1)
            self.assertIn(f"pope.json: line {line}: ", error)
            self.assertIn(name, error)
        with open(data, "w", encoding="utf-8") as f:
            f.write(json.dumps({"question_id": 1, "image": "torn.jpg", "text": "?", "label": "no"}) + "\n")
        error = self.eval("pope", data, "--images", self.path("pictures"), *args, "--force", code=1)
        self.assertIn("no question could be answered; the first: ", error)
        self.assertEqual(read(self.path("out", "metrics.json"))["counts"]["failed"], 1)
        os.mkdir(self.path("empty"))
        error = self.eval("pope", data, "--images", self.path("empty"), *args, "--force", code=1)
        self.assertIn("of 1 pictures none is there", error)
        self.assertIn("--images", error)

    def test_full_disk(self):
        """The journal does not fit: one sentence; with room again --resume ends as if nothing had been."""
        args = ("--limit", "3", "--cliff", "--max-tokens", "2")
        whole = self.pocket("main-object", *args)
        shutil.move(self.path("main-object"), self.path("whole"))
        command = [PROGRAM, "eval", "main-object", "--data", os.path.join(POCKET, "main_object"), "--images",
                   os.path.join(POCKET, "images"), "--model", MODEL, "--out", self.path("main-object"), "--json", "--quiet", *args]

        def small(limit):
            def before():
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return before
        journal = sum(len(line) for line in read_whole(self.path("whole", "predictions.jsonl"))) // 2
        for limit in (0, 100, journal):
            done = subprocess.run(command + ["--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  preexec_fn=small(limit), timeout=100, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("predictions.partial.jsonl: cannot write", done.stderr)
            self.assertEqual(os.listdir(self.path("main-object")), ["predictions.partial.jsonl"])
        done = subprocess.run(command + ["--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              preexec_fn=small(200000), timeout=100, check=False)
        self.assertIn("report.html: cannot write", done.stderr)  # the page alone is larger: the results stay
        self.assertEqual(done.returncode, 1)
        self.assertEqual(sorted(os.listdir(self.path("main-object"))), ["metrics.json", "predictions.jsonl"])
        again = self.pocket("main-object", *args, "--resume")
        for said in (whole, again):
            said.pop("command")
        self.assertEqual(again, whole)
        self.assertEqual(sorted(os.listdir(self.path("main-object"))), ["metrics.json", "predictions.jsonl", "report.html"])

    def test_bad_data(self):
        data = self.path("main_object.jsonl")
        with open(data, "w", encoding="utf-8") as f:
            f.write('{"id": 1, "image": "000001.jpg", "label": "dog"}\n{"id": 2, "image": "../x.jpg", "label": "dog"}\n'
                    '{"id": 3, "image": "none.jpg", "label": "dog"}\n')
        common = ("--model", MODEL, "--images", os.path.join(POCKET, "images"), "--max-tokens", "3")
        said = self.eval("main-object", data, *common, "--out", self.path("out"))
        self.assertEqual((said["counts"]["bad_rows"], said["counts"]["failed"], said["counts"]["answered"]), (1, 1, 1))
        self.assertIn("line 2: the path", said["bad_rows"][0])
        self.assertIn("none.jpg", said["errors"][0]["error"])
        self.assertIn("line 2: the path", self.eval("main-object", data, *common, "--strict", "--out", self.path("other"), code=1))
        other = self.path("mine")
        os.mkdir(other)
        with open(os.path.join(other, "letter.txt"), "w", encoding="utf-8") as f:
            f.write("mine")
        self.assertIn("expected a new or empty folder", self.eval("main-object", data, *common, "--out", other, "--force", code=1))
        self.assertEqual(os.listdir(other), ["letter.txt"])

    def test_usage(self):
        for args in (["eval"], ["eval", "pope"], ["eval", "pop", "--data", "x"], ["eval", "pope", "--data", "x", "--limit", "0"],
                     ["eval", "pope", "more", "--data", "x"]):
            self.assertEqual(subprocess.run([PROGRAM, *args], stderr=subprocess.DEVNULL, check=False).returncode, 2, args)
        self.assertIn("did you mean `pope`", subprocess.run([PROGRAM, "eval", "pop", "--data", "x"], stderr=subprocess.PIPE,
                                                            text=True, check=False).stderr)
        self.assertIn("there are: llava, opera", self.eval("pope", os.path.join(GOLDEN, "pope"), "--rule", "x", "--predictions",
                                                           "x", code=2))
        for args in (("--prompt-style", "x", "--data", os.path.join(GOLDEN, "pope")), ("--data", self.path("none"))):
            done = subprocess.run([PROGRAM, "eval", "pope", "--model", self.path("none"), *args], stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, 2 if "x" in args else 1)
            self.assertNotIn("config.json", done.stderr)  # told before the model is looked for


def read_whole(path):
    with open(path, "rb") as f:
        return [line for line in f if line.endswith(b"\n")]


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()
