"""Thousands of random awkward texts, judged by sightline and by the official scripts: says where they differ.

    python3 metric_random.py SCRIPTS SIGHTLINE [SEED]

SCRIPTS is the folder that metric.py needs, SIGHTLINE the program. Ends with 1 when anything differs; put what it found into
metric.py. Nothing is kept.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import metric

COUNT = 3000
SPACES = [" ", " ", " ", "", ". ", ", ", "\n", "\t", ".", "! ", "? ", ".\n", "\r\n", ".. ", "... ", ":", ";", '. " ', ".\u00a0", ".\u3000"]
MARKS = ["(", ")", "{", "]", "<", ".", ",", "!", "?", "--", "...", "'", "''", '"', ":", "-", "\u2013", "\u2018", "\u2019", "\u201c", "\u201d", "1", "%", "&",
         "e.g.", "mr.", "'s", "a", "the", "and", "of"]


def joined(rng, pool, most, spaces=("", "", " ")):
    return "".join(rng.choice(pool) + rng.choice(spaces) for _ in range(rng.randint(0, most)))


class Judge:
    """Asks sightline about others' predictions."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def put(self, name, value):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value)
        path.write_text(text, encoding="utf-8")
        return path

    def lines(self, name, rows):
        return self.put(name, "".join(json.dumps(row) + "\n" for row in rows))

    def said(self, benchmark, data, predictions, key, *options):
        """What every example was judged as, by id."""
        subprocess.run([self.program, "eval", benchmark, "--data", data, "--predictions", predictions, "--out", self.folder / "out", "--force",
                        "--quiet", "--json", *options], check=True, stdout=subprocess.DEVNULL)
        with open(self.folder / "out" / "predictions.jsonl", encoding="utf-8") as file:
            return {row["question_id"]: row["judged"][key] for row in map(json.loads, file)}


def compare(name, texts, wanted, found):
    """Number of texts on which both differ, the first few printed."""
    bad = [(t, w, f) for t, w, f in zip(texts, wanted, found) if w != f]
    print(f"{name}: {len(texts)} texts, {len(bad)} differ")
    for text, official, own in bad[:5]:
        print(f"  {text!r}: official {official}, sightline {own}")
    return len(bad)


def textvqa(rng, judge, _scripts):
    import m4c_evaluator
    process = m4c_evaluator.TextVQAAccuracyEvaluator().answer_processor
    pool = [w for w in metric.TEXTVQA_WORDS if w] + list("abcXYZ019 .,;:!?'\"-_/\\()[]{}<>@#$%^&*+=`~|\n\t") + metric.cases(metric.MORE_TEXTVQA)
    texts = [joined(rng, pool, 8) for _ in range(COUNT)]
    data = judge.put("TextVQA_x.json", {"data": [{"question_id": i, "image_id": "a", "question": f"q{i}", "answers": ["x"] * 10} for i in range(COUNT)]})
    said = judge.said("textvqa", data, judge.lines("p", [{"question_id": i, "answer": t} for i, t in enumerate(texts)]), "parsed")
    return compare("textvqa", texts, [process(t) for t in texts], [said[str(i)] for i in range(COUNT)])


def pope(rng, judge, scripts):
    import eval_pope
    pool = ["yes", "Yes", "no", "No", "not", "NO", "n't", "isn't", ".", ",", "\n", "\t", " ", "  ", "dog", "there", "is", "know", "\u00a0", "!", "?"]
    texts = [joined(rng, pool, 8) for _ in range(COUNT)]
    data = judge.lines("x_random.json", [{"question_id": i, "image": "a.jpg", "text": "t", "label": ("yes", "no")[i % 2]} for i in range(COUNT)])
    predictions = judge.lines("p", [{"question_id": i, "text": t} for i, t in enumerate(texts)])
    answers = [{"text": t} for t in texts]
    metric.run_printing(lambda: eval_pope.eval_pope(answers, str(data)))
    opera = metric.function_of(scripts / "opera_pope_eval.py", "recorder")(texts, [])
    bad = 0
    for rule, wanted in (("llava", [a["text"] for a in answers]), ("opera", [("no", "yes")[o] for o in opera])):
        said = judge.said("pope", data, predictions, "parsed", "--rule", rule)
        bad += compare(f"pope {rule}", texts, wanted, [said[f"random/{i}"] for i in range(COUNT)])
    return bad


def scienceqa(rng, judge, scripts):
    pool = list("ABCDEFa") + [". ", ".", "\n", " ", "The answer is ", "the answer is", "T", "(", ")", ":", "and", "BECAUSE", "  ", "\u00a0"]
    texts = [joined(rng, pool, 6, ("",)) for _ in range(COUNT)]
    problems = {str(i): {"question": "?", "choices": list("wxyz"), "answer": 0, "hint": "", "image": "i.png"} for i in range(COUNT)}
    folder = judge.put("science/problems.json", problems).parent
    judge.put("science/pid_splits.json", {"test": list(problems)})
    predictions = judge.lines("p", [{"question_id": i, "prompt": "<image>", "text": t} for i, t in zip(problems, texts)])
    bad = 0
    for script, rule in (("eval_science_qa.py", "llava-ce1aa08"), ("eval_science_qa_5200b75.py", "llava-5200b75")):
        subprocess.run([sys.executable, scripts / script, "--base-dir", folder, "--result-file", predictions, "--output-file", judge.folder / "o",
                        "--output-result", judge.folder / "r"], check=True, capture_output=True)
        chosen = json.loads((judge.folder / "r").read_text())["results"]
        said = judge.said("scienceqa", folder, predictions, "choice", "--rule", rule)
        bad += compare(f"scienceqa {rule}", texts, [chosen[i] for i in problems], [said[i] for i in problems])
    return bad


def chair(rng, judge, scripts):
    script, _ = metric.load_chair(scripts)
    script.CHAIR.get_annotations = lambda self: None
    official = script.CHAIR("")
    words = [w.strip() for line in script.synonyms_txt.splitlines() for w in line.split(", ") if w.strip()]
    pool = words + [w + "s" for w in words] + MARKS * 8 + ["toilet", "seat", "baby", "adult", "passenger", "hot", "wine", "glasses", "bow"] * 4
    texts = [joined(rng, pool, 14, SPACES) for _ in range(COUNT)]
    folder = judge.put("coco/instances_val2014.json", {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(COUNT)], "categories": [],
                                                       "annotations": []}).parent
    judge.put("coco/captions_val2014.json", {"annotations": []})
    predictions = judge.put("p", [{"image_id": i, "caption": t} for i, t in enumerate(texts)])
    said = judge.said("chair", folder, predictions, "mentioned")
    return compare("chair", texts, [official.caption_to_words(t)[1] for t in texts], [said[str(i)] for i in range(COUNT)])


def main():
    scripts, program = Path(sys.argv[1]).resolve(), os.path.abspath(sys.argv[2])
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    sys.path.insert(0, str(scripts))
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(program, Path(folder))
        return min(1, sum(ask(rng, judge, scripts) for ask in (textvqa, pope, scienceqa, chair)))


if __name__ == "__main__":
    sys.exit(main())
