"""`eval` as a user meets it: the pocket editions, others' predictions, resuming, bad data, exit codes.

    python3 tests/test_eval.py path/to/sightline [unittest arguments]
"""
import json
import os
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
        rows = read_lines(self.path("pope", "predictions.jsonl"))
        self.assertEqual([r["question_id"] for r in rows], [f"random/{i}" for i in range(1, 9)])
        self.assertTrue(all(len(r["layers"]) == 12 for r in rows))
        self.assertEqual(read(self.path("pope", "metrics.json")), said)
        self.assertFalse(os.path.exists(self.path("pope", "predictions.partial.jsonl")))

    def test_truncation_is_the_same_as_cliff(self):
        """The answer with the picture hidden from a layer on is that of `cliff` and of a plan."""
        self.pocket("main-object", "--limit", "1", "--cliff", "--max-tokens", "6")
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

    def test_pocket_scienceqa(self):
        said = self.pocket("scienceqa", "--limit", "6", "--max-tokens", "4")
        self.assertGreaterEqual(said["metrics"]["accuracy"], 0.6)
        self.assertEqual(list(said["metrics"]["groups"]), ["image"])

    def test_question_without_picture(self):
        """A question of text alone is answered without seeing the picture that carries it."""
        folder = self.path("sqa")
        shutil.copytree(os.path.join(POCKET, "scienceqa", "images", "test", "5"), os.path.join(folder, "images", "test", "5"))
        problems = read(os.path.join(POCKET, "scienceqa", "problems.json"))
        text = next(k for k, v in problems.items() if v["image"] is None)
        with open(os.path.join(folder, "problems.json"), "w", encoding="utf-8") as f:
            json.dump({"5": problems["5"], text: problems[text]}, f)
        with open(os.path.join(folder, "pid_splits.json"), "w", encoding="utf-8") as f:
            json.dump({"test": ["5", text]}, f)
        answers = []
        for content in (None, os.path.join(POCKET, "images", "000003.jpg")):
            if content:
                shutil.copy(content, os.path.join(folder, "images", "test", "5", "image.jpg"))
            said = self.eval("scienceqa", folder, "--model", MODEL, "--prompt-style", "lines", "--cliff", "--max-tokens", "4",
                             "--out", self.path("out"), "--force")
            row = read_lines(self.path("out", "predictions.jsonl"))[1]
            self.assertEqual(row["layers"], [row["text"]] * 12)
            answers.append(row["text"])
            self.assertEqual(said["counts"]["without_picture"], 1)
        self.assertEqual(answers[0], answers[1])

    def test_pocket_textvqa(self):
        said = self.pocket("textvqa", "--limit", "6", "--max-tokens", "6")
        self.assertGreaterEqual(said["metrics"]["accuracy"], 0.6)

    def test_pocket_chair(self):
        said = self.pocket("chair", "--limit", "4", "--max-tokens", "32")
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
        self.assertEqual(os.listdir(self.dir), [])

    def test_resume(self):
        """Interrupted, then killed, then resumed: the files of an uninterrupted run."""
        args = ("--limit", "14", "--cliff", "--max-tokens", "3")
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
        self.assertIn("made with another", self.pocket("main-object", "--limit", "14", "--resume", code=1))
        self.assertIn("holds results already", self.pocket("main-object", *args, code=1))
        again = self.pocket("main-object", *args, "--resume")
        for said in (whole, again):
            said.pop("command")
        self.assertEqual(again, whole)
        self.assertEqual(read_lines(self.path("main-object", "predictions.jsonl")), read_lines(self.path("whole", "predictions.jsonl")))
        self.assertEqual(self.pocket("main-object", *args, "--resume")["metrics"], whole["metrics"])  # nothing left to do

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
                                                           "x", code=1))


def read_whole(path):
    with open(path, "rb") as f:
        return [line for line in f if line.endswith(b"\n")]


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()
