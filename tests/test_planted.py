"""Planted truth: the analyses find the wiring of checkpoints that tools/planted/make.py builds.

    python3 tests/test_planted.py path/to/sightline [unittest arguments]

Expected numbers come from each folder's truth.json, which is worked out from the wiring alone.
"""
import array
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tools", "planted")]
sys.dont_write_bytecode = True

import make
from test_cli import read_json, read_tensors

PROGRAM = "sightline"
GOLDEN = os.path.join(HERE, "golden", "llava-gqa")
CODES = {"F32": "f", "I32": "i", "U8": "B"}
NEAR = 2e-3  # what RMSNorm and the attention's remainders leave of "linear", in logits of about 5


class Run:
    """What a command left: the analysis' object of run.json and flat lists of numbers."""

    def __init__(self, folder, command):
        self.root = read_json(os.path.join(folder, "run.json"))
        self.said = self.root["analyses"].get(command)
        self.tensors = {}
        for name, (dtype, _, data) in read_tensors(os.path.join(folder, "tensors.safetensors")).items():
            self.tensors[name] = list(array.array(CODES[dtype], data)) if dtype in CODES else None

    def __getitem__(self, name):
        return self.tensors[name]

    def answer_token(self):
        """The answer's first token in the unmodified run."""
        return next(t for t in self.root["tokens"] if t["class"] == "generated")


class Planted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="sl-planted-")
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.truths, cls.runs = {}, {}

    def truth(self, kind):
        if kind not in self.truths:
            self.truths[kind] = make.make(kind, os.path.join(self.dir, kind))
        return self.truths[kind]

    def work(self, command, model, picture, *args, prompt=make.QUESTION):
        """Runs once for the same arguments. One thread: these models are too small for two."""
        key = (command, model, args)
        if key not in self.runs:
            out = os.path.join(self.dir, "run-%d" % len(self.runs))
            done = subprocess.run([PROGRAM, command, "--model", model, "--image", picture, "--prompt", prompt,
                                   "--dtype", "f32", "--threads", "1", "--max-tokens", "3", "--no-report", "--quiet",
                                   "--out", out, *args],
                                  timeout=500, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 0, done.stderr.decode())
            self.runs[key] = Run(out, command)
        return self.runs[key]

    def run_kind(self, command, kind, *args):
        self.truth(kind)
        folder = os.path.join(self.dir, kind)
        return self.work(command, folder, os.path.join(folder, "picture.png"), *args)

    def near(self, found, expected, tolerance, what=None):
        self.assertLessEqual(abs(found - expected), tolerance, "%s: %r, expected %r" % (what, found, expected))

    def all_near(self, found, expected, tolerance, what):
        self.assertEqual(len(found), len(expected))
        for i, (a, b) in enumerate(zip(found, expected)):
            self.near(a, b, tolerance, "%s %d" % (what, i))


def flat(grid):
    return [value for row in grid for value in row]


def position(carrier):
    return carrier["layer"] * make.HEADS + carrier["head"]


def ranking(values):
    return sorted(range(len(values)), key=lambda i: -values[i])


class Heads(Planted):
    def test_exactly_the_carriers(self):
        truth = self.truth("heads")
        run = self.run_kind("heads", "heads", "--samples", "512", "--all-samples", "--solver", "ols")
        score, error, expected = run["heads.score"], run["heads.stderr"], flat(truth["scores"]["0.5"])
        carriers = {position(c) for c in truth["carriers"]}
        self.assertEqual(set(ranking(score)[:len(carriers)]), carriers)
        for i in range(len(score)):
            self.assertLessEqual(error[i], 0.02 * max(score), i)
            self.assertLess(abs(score[i] - expected[i]), 4 * error[i], i)  # of the others: |score| < 4 errors
        self.all_near(run["heads.single"], flat(truth["single"]), NEAR, "single")
        self.all_near(run["heads.attention"], flat(truth["attention"]), NEAR, "attention")
        self.assertGreater(run["heads.fit"][2], 0.98)
        steps = run["heads.steps"]
        enough = [f for n, f in zip(steps, run["heads.faithfulness"]) if n >= len(carriers)]
        for share in enough:  # the carriers alone are all there is
            self.near(share, 1, NEAR)

    def saturating(self, kind, q, samples):
        truth = self.truth(kind)
        run = self.run_kind("heads", kind, "--keep-probability", q, "--samples", samples, "--all-samples", "--solver",
                            "ols")
        score, error, expected = run["heads.score"], run["heads.stderr"], flat(truth["scores"][q])
        self.all_near(run["heads.single"], flat(truth["single"]), NEAR, "single")
        for carrier in map(position, truth["carriers"]):
            self.assertLess(abs(score[carrier] - expected[carrier]), 3 * error[carrier])
            self.assertLess(error[carrier], abs(expected[carrier]) / 2)  # or 3 errors would be no test
        self.assertEqual(set(ranking(score)[:2]), {position(c) for c in truth["carriers"]})
        return run

    def test_or_at_a_half(self):
        run = self.saturating("or", "0.5", "512")
        for carrier in self.truth("or")["carriers"]:
            self.near(run["heads.single"][position(carrier)], 0, NEAR)  # ablating one alone sees nothing

    def test_or_at_nine_tenths(self):
        self.saturating("or", "0.9", "1000")

    def test_and_at_a_half(self):
        self.saturating("and", "0.5", "512")

    def test_and_at_nine_tenths(self):
        self.saturating("and", "0.9", "1000")

    def test_attention_is_not_attribution(self):
        truth = self.truth("decoy")
        run = self.run_kind("heads", "decoy", "--samples", "256", "--all-samples")
        decoy = truth["decoy"][0] * make.HEADS + truth["decoy"][1]
        self.assertEqual(ranking(run["heads.attention"])[0], decoy)
        self.assertEqual(ranking(run["heads.score"])[-1], decoy)
        self.all_near(run["heads.attention"], flat(truth["attention"]), NEAR, "attention")
        self.all_near(run["heads.score"], flat(truth["scores"]["0.5"]), NEAR, "score")

    def test_other_baselines(self):
        """The calibration pictures are black: an ablated head then adds nothing either."""
        calibration = os.path.join(self.dir, "and", "calibration")
        truth = self.truth("and")
        for options in (("--baseline", "zero"), ("--baseline", "mean", "--calibration", calibration),
                        ("--baseline", "image:" + os.path.join(calibration, "black-0.png"))):
            run = self.run_kind("heads", "and", *options, "--samples", "64", "--all-samples")
            self.near(run.said["all"], truth["target_all"], NEAR, options)
            self.near(run.said["none"], truth["target_none"], NEAR, options)
            self.all_near(run["heads.single"], flat(truth["single"]), NEAR, "single")


class Rest(Planted):
    def test_one_token_matters(self):
        truth = self.truth("token")
        run = self.run_kind("tokens", "token", "--samples", "300", "--all-samples", "--solver", "ols")
        score, best = run["tokens.image"], truth["token"]
        self.assertEqual(ranking(score)[0], best)
        # Hiding others raises this one's share of attention by at most share / (1 - share), 0.02 here.
        self.near(score[best], truth["token_score"], 0.02 * truth["token_score"])
        others = [abs(s) for i, s in enumerate(score) if i != best]
        self.assertLess(max(others), 0.01 * score[best])
        self.assertEqual(run.said["image"]["sufficient"]["image_positions"], [best])

    def test_path_in_two_steps(self):
        truth = self.truth("path")
        run = self.run_kind("knockout", "path", "--window", "1")
        edges = {e["edge"]: e for e in run.said["edges"]}
        p_yes = lambda z: math.exp(z) / (math.exp(z) + math.exp(truth["contrast_logit"]) + (372 * math.exp(-12)))
        lost = p_yes(0) / p_yes(truth["target_all"]) - 1
        for edge, layer in (("role+final<-image", truth["path"][0]["layer"]), ("role<-image", truth["path"][0]["layer"]),
                            ("final<-role", truth["path"][1]["layer"])):
            self.all_near(edges[edge]["change"], [lost if l == layer else 0 for l in range(make.LAYERS)], NEAR, edge)
            self.near(edges[edge]["centroid"], layer, 0.01, edge)
        for edge in ("final<-image", "final<-question", "question<-image", "role+final<-question"):
            self.all_near(edges[edge]["change"], [0] * make.LAYERS, NEAR, edge)
        self.assertLess(edges["role+final<-image"]["centroid"], edges["final<-role"]["centroid"])

    def test_path_in_tokens(self):
        """Only the relay's view of the picture matters, so one text position takes everything."""
        run = self.run_kind("tokens", "path", "--samples", "240", "--all-samples", "--solver", "ols")
        score = run["tokens.text"]
        self.assertEqual(ranking(score)[0], len(score) - 2)  # ASSISTANT, before the final colon
        self.near(max(score), self.truth("path")["target_all"], 0.01)
        self.assertLess(sorted(map(abs, score))[-2], 0.01)

    def test_cliff_is_exact(self):
        truth = self.truth("cliff")
        run = self.run_kind("cliff", "cliff")
        expected = [sum(c["weight"] for c in truth["carriers"] if c["layer"] < k) for k in range(make.LAYERS + 1)]
        self.all_near(run["cliff.logit"], expected, NEAR, "layer")
        self.assertEqual(run.said["layer"], truth["cliff"])
        answers = ["yes" if z > truth["contrast_logit"] else "no" for z in expected]
        self.assertEqual(run.said["answer"], answers)

    def test_cliff_of_every_kind(self):
        for kind in ("heads", "or", "and", "path", "token"):
            truth = self.truth(kind)
            run = self.run_kind("cliff", kind)
            self.assertEqual(run.said["layer"], 3 if kind == "or" else truth["cliff"], kind)
            self.near(run["cliff.logit"][0], truth["target_none"], NEAR, kind)
            self.near(run["cliff.logit"][-1], truth["target_all"], NEAR, kind)


class Identities(Planted):
    """What holds on any model, here on a planted one and on a random one with grouped key/value heads."""

    def check(self, model, picture, prompt, answer):
        work = lambda command, *args: self.work(command, model, picture, "--answer", answer, *args, prompt=prompt)
        heads = work("heads", "--samples", "64", "--all-samples", "--min-effect", "0")
        cliff = work("cliff")
        said, scale = heads.said, max(1, abs(heads.said["all"]))
        plain = heads.answer_token()["logit"]
        self.near(said["all"], plain, 2e-5 * scale, "all ones")
        self.near(cliff["cliff.logit"][-1], plain, 2e-5 * scale, "no layer truncated")
        self.near(said["none"], cliff["cliff.logit"][0], 2e-5 * scale, "all zeros")
        for name in ("heads.faithfulness", "heads.completeness"):
            self.near(heads[name][0], 0, 1e-5, name)
            self.near(heads[name][-1], 1, 1e-5, name)
        shape = heads.root["model"]
        n_head, n = shape["n_head"], len(heads["heads.single"])
        first, end = heads.root["spans"]["image"][0]
        for component in {0, 1, n // 2, n - 1}:
            plan = {"attend": [{"layers": str(component // n_head), "heads": [component % n_head],
                                "queries": "%d-" % end, "keys": "%d-%d" % (first, end - 1), "source": "hidden"}]}
            path = os.path.join(self.dir, "plan-%d.json" % component)
            with open(path, "w") as f:
                json.dump(plan, f)
            told = work("ask", "--plan", path).root["plan_answer"]["tokens"][0]
            self.assertEqual(told["id"], heads.answer_token()["id"])
            self.near(heads["heads.single"][component], plain - told["logit"], 4e-5 * scale, component)

    def test_planted(self):
        self.truth("heads")
        folder = os.path.join(self.dir, "heads")
        self.check(folder, os.path.join(folder, "picture.png"), make.QUESTION, "yes")

    def test_random(self):
        self.check(GOLDEN, os.path.join(GOLDEN, "a.png"), "What is in the picture?", "a cat")


del Planted

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
