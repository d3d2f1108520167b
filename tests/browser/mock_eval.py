"""An evaluation whose page is looked at: main objects of the bundled model, with hostile texts, a bad row and a missing picture.

    python3 mock_eval.py SIGHTLINE FOLDER
"""

import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
POCKET = os.path.join(ROOT, "examples", "eval")
HOSTILE = "</script><img src=x onerror='document.title=1'> \u202e & \"What\" is it?"
QUESTIONS = 24


def make(program, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(POCKET, "main_object", "main_object.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f][:QUESTIONS]
    rows[0] = {**rows[0], "label": HOSTILE, "question": HOSTILE}
    rows[1] = {**rows[1], "image": "<b>none</b>.jpg"}
    data = os.path.join(folder, "main_object.jsonl")
    with open(data, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
        f.write('{"id": "bad <i>row</i>", "image": "../x.jpg", "label": "dog"}\n')
    out = os.path.join(folder, "out")
    subprocess.run([program, "eval", "main-object", "--data", data, "--images", os.path.join(POCKET, "images"), "--cliff", "--max-tokens", "6",
                    "--model", os.path.join(ROOT, "models", "pocket-llava"), "--out", out, "--quiet", "--json"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(os.path.join(out, "report.html"), folder)


if __name__ == "__main__":
    make(*sys.argv[1:])
