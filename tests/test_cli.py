"""The command as a new user meets it: answers, files, messages, exit codes, interruption.

    python3 tests/test_cli.py path/to/sightline [unittest arguments]
"""
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden", "llava-gqa")
PICTURE = os.path.join(GOLDEN, "a.png")
OTHER_PICTURE = os.path.join(GOLDEN, "b.png")
QUESTION = "What is in the picture?"
PROGRAM = "sightline"


def read_tensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header, data = json.loads(f.read(n)), f.read()
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]])
            for k, v in header.items() if k != "__metadata__"}


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Cli(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="sl-cli-")
        self.addCleanup(shutil.rmtree, self.dir)

    def run_it(self, *args, env=None, stdout=subprocess.PIPE):
        environment = {k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"}
        environment.update(env or {})
        return subprocess.run([PROGRAM, *args], cwd=self.dir, env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=300)

    def work(self, command, *args, model=GOLDEN, image=PICTURE, prompt=QUESTION, **more):
        given = [x for pair in (("--model", model), ("--image", image), ("--prompt", prompt)) if pair[1] is not None for x in pair]
        return self.run_it(command, *given, "--dtype", "f32", "--max-tokens", "3", *args, **more)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def fails(self, result, code, *words):
        message = result.stderr.decode()
        self.assertEqual(result.returncode, code, message)
        self.assertEqual(result.stdout, b"")
        last = message.rstrip("\n").split("\n")[-1]
        self.assertTrue(last.startswith("sightline: "), message)
        for word in words:
            self.assertIn(word, last)


class Help(Cli):
    def test_no_command_is_usage(self):
        r = self.run_it()
        self.assertEqual((r.returncode, r.stdout), (2, b""))
        self.assertIn(b"usage: sightline COMMAND", r.stderr)

    def test_version_is_the_projects(self):
        with open(os.path.join(HERE, "..", "CMakeLists.txt")) as f:
            version = re.search(r"project\(sightline VERSION ([0-9.]+)", f.read()).group(1)
        for args in (["--version"], ["cam", "--version"]):
            r = self.run_it(*args)
            self.assertEqual((r.returncode, r.stdout.decode()), (0, f"sightline {version}\n"))

    def test_every_command_explains_itself(self):
        overview = self.run_it("--help").stdout.decode()
        for command in ("info", "ask", "trace", "flow", "cam", "report"):
            self.assertRegex(overview, rf"(?m)^  {command} ")
            for args in ([command, "--help"], ["help", command], [command, "-h"]):
                r = self.run_it(*args)
                self.assertEqual((r.returncode, r.stderr), (0, b""))
                self.assertIn(f"usage: sightline {command}", r.stdout.decode())
            for line in r.stdout.decode().split("\n"):
                self.assertLessEqual(len(line), 112, line)
        self.assertIn("--contrast TOKEN", self.run_it("trace", "--help").stdout.decode())

    def test_suggestions(self):
        self.fails(self.run_it("trcae"), 2, "`trcae`", "did you mean `trace`?")
        self.fails(self.run_it("--image"), 2, "expected a command")
        self.fails(self.run_it("xyzzy"), 2, "--help")
        self.fails(self.run_it("cam", "--modle", "x"), 2, "did you mean --model?")
        self.fails(self.run_it("cam", "--pre-token"), 2, "did you mean --per-token?")
        self.fails(self.run_it("flow", "--target", "logit"), 2, "--target", "`trace`, `cam`")
        self.fails(self.run_it("ask", "--xyzzy=3"), 2, "--xyzzy", "sightline ask --help")
        self.fails(self.run_it("trace", "--s"), 2, "ambiguous")
        self.fails(self.run_it("cam", "--image"), 2, "--image needs a value")
        self.fails(self.run_it("cam", "--clip=1"), 2, "--clip takes no value")
        self.fails(self.run_it("cam", "-x"), 2, "-x")

    def test_required_and_stray_words(self):
        self.fails(self.work("ask", image=None), 2, "--image FILE")
        self.fails(self.work("ask", prompt=None), 2, "--prompt TEXT")
        self.fails(self.work("ask", "is", "it"), 2, '"is"', "quote")
        self.fails(self.run_it("report"), 2, "run directory")

    def test_values_are_checked(self):
        for option, value, word in (("--max-tokens", "0", "from 1"), ("--seed", "-1", "from 0"), ("--threads", "two", '"two"'),
                                    ("--threads", "1025", "from 1 to 1024"), ("--threads", "0", "from 1 to 1024"),
                                    ("--target", "best", "logprob"), ("--site", "ln7", "resid_pre"), ("--smooth", "1.5", "whole"),
                                    ("--sigma", "0,1", "number"), ("--object-threshold", "0", "share")):
            self.fails(self.work("cam", option, value), 2, option, word)
        self.fails(self.run_it("info", "--threads", "1025"), 2, "--threads", "from 1 to 1024")
        self.fails(self.work("ask", "--dtype", "f8"), 2, "f8")
        self.fails(self.work("ask", "--device", "tpu"), 2, "tpu")


class Ask(Cli):
    def test_prints_the_answer_alone(self):
        with open(os.path.join(GOLDEN, "golden.json")) as f:
            case = json.load(f)["cases"]["c0"]
        r = self.work("ask", "--max-tokens", "8", "--quiet")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertEqual(r.stdout.decode(), case["greedy_text"] + "\n")
        self.assertEqual(os.listdir(self.dir), [])
        said = json.loads(self.work("ask", "--max_tokens=8", "--json").stdout)
        self.assertEqual([t["id"] for t in said["answer_tokens"]], case["greedy"])
        self.assertIsNone(said["out"])
        self.assertEqual(said["spans"]["image"], [[case["image_first"], case["image_first"] + case["image_count"]]])
        raw = json.loads(self.work("ask", "--max-tokens", "8", "--json", "--raw-prompt", prompt=case["prompt"]).stdout)
        self.assertEqual(raw["answer_tokens"], said["answer_tokens"])

    def test_forced_answer(self):
        said = json.loads(self.work("ask", "--answer", "the picture", "--json").stdout)
        self.assertEqual(said["prompt"]["answer"], "the picture")
        self.assertEqual(said["prompt"]["answer_source"], "forced")
        self.assertTrue(all(0 < t["prob"] < 1 and len(t["top"]) == 5 for t in said["answer_tokens"]))

    def test_records_and_stores_logits(self):
        r = self.work("ask", "--record", "blocks.*.hook_resid_post@-1,vision.hook_embed", "--logits")
        self.assertEqual(r.returncode, 0, r.stderr)
        tensors = read_tensors(self.path("sightline-ask-a", "tensors.safetensors"))
        run = read_json(self.path("sightline-ask-a", "run.json"))
        self.assertEqual(tensors["logits.all"][1], [len(run["tokens"]), run["model"]["n_vocab"]])
        self.assertEqual(tensors["site/blocks.2.hook_resid_post"][1][0], 1)
        self.assertIn("site/vision.hook_embed", tensors)
        self.assertTrue(os.path.exists(self.path("sightline-ask-a", "report.html")))
        self.fails(self.work("ask", "--record", "blocks.0.hook_resid_pots", "--out", "x"), 1, "hook_resid_pots")

    def test_model_from_the_environment(self):
        r = self.work("ask", "--quiet", model=None, env={"SIGHTLINE_MODEL": GOLDEN})
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout, self.work("ask", "--quiet").stdout)

    def test_bad_texts(self):
        self.fails(self.work("ask", prompt=""), 1, "prompt", "empty")
        self.fails(self.work("ask", prompt=" \n "), 1, "prompt", "empty")
        self.fails(self.work("ask", prompt=b"caf\xe9"), 1, "not UTF-8", "byte 3")
        self.fails(self.work("ask", prompt="a <image> b"), 1, "<image>")
        self.fails(self.work("ask", "--answer", ""), 1, "answer", "empty")
        self.fails(self.work("ask", "--answer", b"\xff"), 1, "answer", "UTF-8")
        r = self.work("ask", "--raw-prompt", prompt="no placeholder")
        self.fails(r, 1, "placeholder")

    def test_long_prompt(self):
        r = self.work("ask", "--quiet", "--max-tokens", "1", prompt="is there a cat " * 30)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.fails(self.work("ask", prompt="is there a cat " * 400), 1, "max_position_embeddings")

    def test_bad_pictures(self):
        with open(self.path("note.png"), "w") as f:
            f.write("not a picture")
        self.fails(self.work("ask", image="missing.png"), 1, "missing.png", "No such file")
        self.fails(self.work("ask", image=self.dir), 1, "not a file")
        self.fails(self.work("ask", image="note.png"), 1, "note.png")

    def test_bad_models(self):
        self.fails(self.work("ask", model="nowhere"), 1, "nowhere")
        os.mkdir(self.path("empty"))
        self.fails(self.work("ask", model="empty"), 1, "config.json")

    def test_without_any_model(self):
        # A copy with nothing beside it, and with other names for the folders where an installed model would be.
        with open(PROGRAM, "rb") as f:
            program = f.read()
        os.mkdir(self.path("bin"))
        with open(self.path("bin", "alone"), "wb") as f:
            f.write(program.replace(b"share/sightline/models", b"share/sightline/absent"))
        os.chmod(self.path("bin", "alone"), 0o755)
        r = subprocess.run([self.path("bin", "alone"), "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env={k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"})
        self.fails(r, 1, "--model", "$SIGHTLINE_MODEL")

    def test_full_disk_on_standard_output(self):
        with open("/dev/full", "wb") as full:
            r = self.work("ask", "--quiet", stdout=full)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"standard output", r.stderr)


class Info(Cli):
    def test_tells_what_a_model_is(self):
        r = self.run_it("info", "--model", GOLDEN, "--prompt", QUESTION)
        self.assertEqual(r.returncode, 0, r.stderr)
        for word in ("3 layers, 4 heads (2 key/value heads)", "16 image tokens", "user, final", "8-23"):
            self.assertIn(word, r.stdout.decode())
        said = json.loads(self.run_it("info", "--model", GOLDEN, "--json").stdout)
        self.assertEqual((said["n_layer"], said["n_image_token"]), (3, 16))
        sites = self.run_it("info", "--model", GOLDEN, "--sites").stdout.decode()
        for name in ("blocks.{i}.ln2.hook_normalized", "blocks.{i}.attn.hook_pattern", "projector.hook_out", "ln_final.hook_normalized"):
            self.assertIn(name, sites)
        self.fails(self.run_it("info", GOLDEN), 2, "--model")


class Runs(Cli):
    def test_trace_makes_a_run_directory(self):
        r = self.work("trace", "--object_mask", PICTURE)
        self.assertEqual(r.returncode, 0, r.stderr)
        text = r.stdout.decode()
        for word in ("image share", "on object", "attention cliff", "CAM cliff", "no CAM in layer 2", "--site"):
            self.assertIn(word, text)
        self.assertIn("results in sightline-trace-a/report.html", r.stderr.decode())
        run = read_json(self.path("sightline-trace-a", "run.json"))
        for key in ("sightline", "schema", "command", "model", "compute", "image", "prompt", "tokens", "spans", "grid", "queries",
                    "options", "seed", "analyses", "timings_ms", "peak_memory_bytes", "warnings"):
            self.assertIn(key, run)
        self.assertEqual(run["command"][1], "trace")
        self.assertEqual(run["options"]["cam"]["site"], "ln2")
        self.assertEqual(run["analyses"]["cam"]["undefined"], [2])
        self.assertEqual(run["image"]["object_tokens"], 16)
        self.assertGreater(run["timings_ms"]["total"], 0)
        tensors = read_tensors(self.path("sightline-trace-a", "tensors.safetensors"))
        self.assertEqual(tensors["flow.share"][1], [3, 3, 5])
        self.assertEqual(tensors["flow.share_heads"][1], [3, 4, 3, 5])
        self.assertEqual(tensors["cam.heat"][1], [3, 1, 4, 4])
        self.assertEqual(tensors["cam.defined"][2], b"\x01\x01\x00")
        self.assertEqual(tensors["image.box"][1], [16, 4])
        with open(self.path("sightline-trace-a", "report.html"), encoding="utf-8") as f:
            report = f.read()
        self.assertIn("</html>", report)
        self.assertNotRegex(report, r"(?:src|href)=\"https?://")
        for name in ("input.png", "mask.png", "cam_00.png", "attention_00.png"):
            self.assertTrue(os.path.exists(self.path("sightline-trace-a", "images", name)), name)

    def test_json_is_alone_on_standard_output(self):
        for command in ("trace", "flow", "cam"):
            r = self.work(command, "--json", "--quiet", "--no-report")
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            said = json.loads(r.stdout)
            self.assertEqual(said["out"], f"sightline-{command}-a")
            self.assertEqual(sorted(said["analyses"]), sorted({"trace": ["flow", "cam"]}.get(command, [command])))
        self.assertEqual(len(said["analyses"]["cam"]["mass"]), 3)
        self.assertIsNone(said["analyses"]["cam"]["mass"][2])
        self.assertFalse(os.path.exists(self.path("sightline-cam-a", "report.html")))

    def test_options_reach_the_analysis(self):
        r = self.work("cam", "--per-token", "--site", "resid-pre", "--target", "margin", "--vision", "--out", "run", "--json")
        said = json.loads(r.stdout)["analyses"]["cam"]
        self.assertEqual((said["target"], said["undefined"], len(said["maps"])), ("margin", [], 4))
        tensors = read_tensors(self.path("run", "tensors.safetensors"))
        self.assertEqual(tensors["cam.heat"][1], [3, 4, 4, 4])
        self.assertEqual(tensors["cam.vision"][1], [4, 4, 4])
        self.assertEqual(self.work("cam", "--alpha", "--out", "alpha").returncode, 0)
        self.assertEqual(read_tensors(self.path("alpha", "tensors.safetensors"))["cam.alpha"][1], [3, 1, 48])
        r = self.work("cam", "--contrast", "the", "--out", "contrast", "--json")
        self.assertEqual(json.loads(r.stdout)["analyses"]["cam"]["contrast"]["piece"], "\u2581the")
        r = self.work("flow", "--sink_threshold", "0.2", "--sinks", "3", "--out", "flow", "--json")
        tensors = read_tensors(self.path("flow", "tensors.safetensors"))
        self.assertEqual(tensors["flow.image_heads"][1], [3, 4, 16])
        self.assertEqual(tensors["flow.sinks"][1], [3, 3])

    def test_same_bits_for_a_seed_whatever_the_threads(self):
        results = []
        for out, seed, threads in (("x", "5", "1"), ("y", "5", "2"), ("z", "6", "1")):
            self.assertEqual(self.work("trace", "--smooth", "3", "--seed", seed, "--threads", threads, "--no-report", "--out", out).returncode, 0)
            results.append(read_tensors(self.path(out, "tensors.safetensors")))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0]["flow.share"], results[2]["flow.share"])
        self.assertNotEqual(results[0]["cam.heat"], results[2]["cam.heat"])

    def test_an_existing_folder_is_safe(self):
        self.assertEqual(self.work("flow", "--out", "run", "--no-report").returncode, 0)
        before = os.stat(self.path("run", "run.json"))
        # Said before the model is opened: a model that does not exist is never looked at.
        self.fails(self.work("flow", "--out", "run", model="nowhere"), 1, "run", "--force")
        self.assertEqual(os.stat(self.path("run", "run.json")), before)
        self.assertEqual(self.work("cam", "--out", "run", "--force", "--no-report").returncode, 0)
        self.assertEqual(list(read_json(self.path("run", "run.json"))["analyses"]), ["cam"])
        os.mkdir(self.path("mine"))
        with open(self.path("mine", "thesis.txt"), "w") as f:
            f.write("years of work")
        self.fails(self.work("flow", "--out", "mine", "--force", model="nowhere"), 1, "mine", "run.json")
        self.assertEqual(os.listdir(self.path("mine")), ["thesis.txt"])

    def test_an_out_folder_that_cannot_be_made(self):
        self.fails(self.work("flow", "--out", "no/such/parent", model="nowhere"), 1, "no/such")
        self.fails(self.work("flow", "--out", "/proc/run", model="nowhere"), 1, "/proc")
        self.assertEqual(os.listdir(self.dir), [])

    def test_a_failing_run_leaves_nothing(self):
        self.fails(self.work("cam", "--contrast", "elephant seal"), 1, "elephant seal", "expected one")
        self.fails(self.work("cam", "--contrast", "the", "--target", "logprob"), 1, "--contrast", "logprob")
        self.assertEqual(os.listdir(self.dir), [])

    def test_mask_of_another_size(self):
        self.fails(self.work("flow", "--object-mask", OTHER_PICTURE, model="nowhere"), 1, "97 x 41", "50 x 50")
        self.fails(self.work("flow", "--object-mask", "none.png", model="nowhere"), 1, "none.png")

    def test_report_is_rebuilt(self):
        self.assertEqual(self.work("flow", "--no-report").returncode, 0)
        r = self.run_it("report", "sightline-flow-a/")
        self.assertEqual((r.returncode, r.stdout), (0, b"sightline-flow-a/report.html\n"))
        self.assertTrue(os.path.exists(self.path("sightline-flow-a", "report.html")))
        self.assertEqual(json.loads(self.run_it("report", "--json", "sightline-flow-a").stdout)["reports"], ["sightline-flow-a/report.html"])
        self.fails(self.run_it("report", "nowhere"), 1, "nowhere")


class Interrupts(Cli):
    def start(self, command, *args, smooth=True, **more):
        work = ["--max-tokens", "3", "--smooth", "1000000"] if smooth else ["--max-tokens", "65536"]
        return subprocess.Popen([PROGRAM, command, "--model", GOLDEN, "--image", PICTURE, "--prompt", QUESTION, *work, *args],
                                cwd=self.dir, stdout=subprocess.PIPE, **more)

    def test_nothing_to_keep_before_the_answer(self):
        p = self.start("ask", "--out", "run", smooth=False, stderr=subprocess.PIPE)
        for line in p.stderr:
            if line.startswith(b"sightline: picture: "):
                break
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        self.assertEqual((p.returncode, out), (130, b""), err)
        self.assertIn(b"interrupted", err)
        self.assertEqual(os.listdir(self.dir), [])

    def test_partial_results_are_kept(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            p = self.start("trace", "--force", "--json", stderr=subprocess.PIPE)
            for line in p.stderr:
                if line.startswith(b"sightline: flow: "):
                    break
            time.sleep(0.3)
            p.send_signal(number)
            out, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 130, err)
            self.assertIn(b"interrupted; what was complete is in sightline-trace-a", err)
            self.assertEqual(list(json.loads(out)["analyses"]), ["flow"])
            run = read_json(self.path("sightline-trace-a", "run.json"))
            self.assertTrue(run["cancelled"])
            self.assertIn("interrupted", run["warnings"][0])
            self.assertIn("flow.share", read_tensors(self.path("sightline-trace-a", "tensors.safetensors")))
            self.assertEqual(os.listdir(self.dir), ["sightline-trace-a"])
            self.assertTrue(os.path.exists(self.path("sightline-trace-a", "report.html")))

    def test_a_second_interrupt_ends_at_once(self):
        p = self.start("cam", "--quiet", stderr=subprocess.PIPE)
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=60)
        self.assertIn(p.returncode, (130, -signal.SIGINT))

    def test_a_killed_run_is_cleared_away_by_the_next(self):
        def partial():
            return [name for name in os.listdir(self.dir) if name.startswith(".run.partial-")]

        def started():
            before, until = set(partial()), time.time() + 60
            p = self.start("cam", "--quiet", "--out", "run", stderr=subprocess.PIPE)
            while set(partial()) <= before and time.time() < until:
                time.sleep(0.01)
            return p

        killed = started()
        killed.kill()
        killed.communicate(timeout=60)
        self.assertEqual(len(partial()), 1)
        alive = started()
        time.sleep(0.5)
        mine = partial()
        self.assertEqual(len(mine), 1)
        self.assertEqual(self.work("flow", "--out", "run", "--no-report").returncode, 0)
        self.assertEqual(partial(), mine)  # a run that goes on keeps its folder
        alive.kill()
        alive.communicate(timeout=60)
        self.assertEqual(self.work("flow", "--out", "run", "--force", "--no-report").returncode, 0)
        self.assertEqual(os.listdir(self.dir), ["run"])

    def test_progress_on_a_terminal(self):
        master, terminal = pty.openpty()
        p = self.start("cam", stderr=terminal)
        os.close(terminal)
        shown, until = b"", time.time() + 60
        while b" left" not in shown and time.time() < until:
            shown += os.read(master, 4096)
        p.send_signal(signal.SIGINT)
        try:
            while True:
                more = os.read(master, 4096)
                shown += more
                if not more:
                    break
        except OSError:  # the other end was closed
            pass
        p.communicate(timeout=60)
        os.close(master)
        self.assertEqual(p.returncode, 130)
        self.assertRegex(shown, rb"\rcam +\[[#.]+\] +\d+ %  [0-9.]+ %/s, .* left")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
