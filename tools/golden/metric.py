"""Golden numbers of the benchmarks: invented questions, annotations and awkward predictions, scored by the official
scripts.

    python3 metric.py SCRIPTS OUT          (OUT = tests/golden/metric)

SCRIPTS is a folder with eval_pope.py, eval_science_qa.py, eval_textvqa.py and m4c_evaluator.py of haotian-liu/LLaVA
(llava/eval at commit c121f04), convert_sqa_to_llava_base_prompt.py (scripts of the same), eval_science_qa_5200b75.py (at
commit 5200b75, of a contributor's branch), opera_pope_eval.py (pope_eval.py of shikiw/OPERA, commit 54485d3), chair.py of
Maxlinn/CHAIR-metric-standalone (commit 640c507) and inflect.py of clips/pattern (pattern/text/en, commit d25511f). They are
run, never copied. Needs nltk and tqdm. NLTK's sentence splitter runs without its model of English, which only tells
abbreviations apart: none is a word of CHAIR's list."""

import ast
import json
import random
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

RNG = random.Random(20261121)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write(path, value):
    path.write_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")


# ---- POPE ----

POPE_TEXTS = """
yes|Yes|YES|no|No|NO|nO|not|Not|NOT|no.|No.|No,|no,|,no|n,o|No, there is not.|Yes, there is no.|Yes. No.|. no|.no|no.yes|
There is no dog|There isn't a dog|isn't|There is not, any.|nothing|none|know|No\n|no\nyes|yes no|yes\tno|yes  no|no |  no|
It is not clear|I cannot tell|cannot|can not|NO.|No!|no!|no;|"no"|'No'|(no)|No?|Nope|Nah|never|
Yes, no doubt|not.|Not.|a.not|there is.no dog|no-one|no one|Yes,not|no,t|n.o|..no|. . no|Yes it does not|yes, it's not no|
No\r|no\u00a0|\u00a0no|n\u00f8|N\u00f3|n\u014d|\u3000no|NOT a dog|Noyes|no/yes|no yes|NO YES|don't|won't be|n't|doN'T|n't.|it isn,'t|
""".replace("\n", "")


def make_pope(scripts, out):
    sys.path.insert(0, str(scripts))
    import eval_pope
    texts = POPE_TEXTS.encode().decode("unicode_escape").encode("latin-1", "ignore").decode("latin-1").split("|")
    texts += ["\u00a0no", "n\u014d", "\u3000no", "\u201cno\u201d", "no\u2019", "N\u00d3"]
    pool = ["yes", "no", "No", "not", "NO", ",", ".", "there", "is", "a", "dog", "isn't", "\n", "  "]
    while len(texts) < 150:
        texts.append(RNG.choice(["", " "]).join(RNG.choice(pool) + RNG.choice(["", " ", ","])
                                                for _ in range(RNG.randint(0, 7))))
    splits = ("random", "popular", "adversarial")
    folder = out / "pope"
    folder.mkdir(parents=True, exist_ok=True)
    things = ("dog", "chair", "kite", "umbrella", "spoon")
    rows = {s: [] for s in splits}
    answers, number = [], 0
    for i, text in enumerate(texts):
        split = splits[i % 3]
        number += 1
        row = {"question_id": len(rows[split]) + 1, "image": f"{i // 6}.jpg",
               "text": f"Is there a {things[i % 5]} in the image?", "label": RNG.choice(("yes", "no"))}
        rows[split].append(row)
        answers.append({"question_id": number, "category": split, "prompt": row["text"], "text": text})
    expected = {"llava": {}, "groups": {}}
    for split in splits:
        path = folder / f"coco_pope_{split}.json"
        write_lines(path, rows[split])
        own = [dict(a) for a in answers if a["category"] == split]
        printed = run_printing(lambda: eval_pope.eval_pope(own, str(path)))
        names = {"Accuracy": "accuracy", "Precision": "precision", "Recall": "recall", "F1 score": "f1",
                 "Yes ratio": "yes_ratio"}
        expected["groups"][split] = {names[k]: float(v) for k, v in re.findall(r"^(.+): ([\d.]+)$", printed, re.M)}
        for row, answer in zip(rows[split], own):
            expected["llava"][f"{split}/{row['question_id']}"] = answer["text"]
    write_lines(folder / "llava_pope_test.jsonl", [{k: a[k] for k in ("question_id", "category")} for a in answers])
    write_lines(folder / "answers.jsonl", [{"question_id": a["question_id"], "text": a["text"]} for a in answers])
    write(folder / "expected.json", expected)
    return len(answers)


def run_printing(work):
    import contextlib
    import io
    kept = io.StringIO()
    with contextlib.redirect_stdout(kept):
        work()
    return kept.getvalue()


# ---- ScienceQA ----

def make_scienceqa(scripts, out):
    letters = "ABCDEFGZ"
    forms = ["{}", "{}.", "{}. word", "{}.word", " {}", "{} ", "\n{}", "{}\n", "{}\nmore", "{}. ", "The answer is {}.",
             "The answer is {}", "The answer is {}, so", "the answer is {}.", "The answer is  {}.", "The answer is {}\n",
             "So: The answer is {}. BECAUSE: x", "The answer is {}. The answer is A.", "The answer is {} The answer is B",
             "The answer is {}.The answer is C.", "The answer is {}The answer is B.", "({})", "{})", "{}, yes", "{}: x",
             "\u00a0{}\u3000", "The answer is a. The answer is {}.", "FAILED {}", "{}. The answer is B."]
    texts = [f.format(x) for f in forms for x in RNG.sample(letters, 5)]
    texts += ["", " ", ".", "A. ", "A.", "AB", "a", "The answer is ", "The answer is .", "answer A", "E", "E.", "E. x"]
    problems, answers = {}, []
    for i, text in enumerate(texts):
        pid, n = str(10 * i + 3), 2 + i % 4
        image = "image.png" if i % 3 else None
        problems[pid] = {"question": f"Which of these is number {i}?", "choices": [f"number {k}" for k in range(n)],
                         "answer": RNG.randrange(n), "hint": "" if i % 2 else "Count  from one.", "image": image,
                         "split": "test"}
        if i % 17 == 5:
            continue  # no prediction
        answers.append({"question_id": pid, "prompt": "<image>\nWhich?" if image else "Which?", "text": text})
    folder = out / "scienceqa"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(problems, indent=0) + "\n")
    write(folder / "pid_splits.json", {"test": list(problems), "val": []})
    write_lines(folder / "answers.jsonl", answers)
    expected = {}
    for rule, script in (("llava-ce1aa08", "eval_science_qa.py"), ("llava-5200b75", "eval_science_qa_5200b75.py")):
        with tempfile.TemporaryDirectory() as work:
            printed = subprocess.run(
                [sys.executable, scripts / script, "--base-dir", folder, "--result-file", folder / "answers.jsonl",
                 "--output-file", f"{work}/o.json", "--output-result", f"{work}/r.json"],
                check=True, capture_output=True, text=True).stdout
            result = json.loads(Path(work, "r.json").read_text())
            judged = json.loads(Path(work, "o.json").read_text())
        parsed = {a["question_id"]: a["parsed_ans"] for side in judged.values() for a in side}
        image = float(re.search(r"IMG-Accuracy: ([\d.]+)%", printed).group(1))
        expected[rule] = {"choice": result["results"], "parsed": parsed, "accuracy": result["acc"] / 100,
                          "image_percent": image}
    write(folder / "expected.json", expected)
    return len(answers)


# ---- TextVQA ----

TEXTVQA_WORDS = """
a the an A The two Two none ten zero coca-cola Coca Cola dont don't dont. isnt theyre ow's'at 'ows'at lets let's somebody'd
12 1,000 1,00,000 3.5 .5 5. 12:30 12/24 $5 50% u.s.a. U.S. mr. no.1 www.site.com hp-15 [x] (x) {y} x=y a+b c\\d e_f <g> @h `i`
'quoted' "double" yes! really? 7-up state's states' é É İ straße ſ ½ ² ٣ 日本 \u00a0 \u3000 \t \n ; : , . ? ! ...
""".split(" ")


def make_textvqa(scripts, out):
    import m4c_evaluator
    evaluator = m4c_evaluator.TextVQAAccuracyEvaluator()
    rows, answers, expected = [], [], {}
    words = [w.strip("\r") for w in TEXTVQA_WORDS if w not in ("İ",)]  # MORE_LOWER has it
    for i in range(150):
        base = RNG.choice(["", " "]).join(RNG.choice(words) for _ in range(RNG.randint(1, 4)))
        if i < len(words):
            base = words[i]
        variants = [base, base.upper(), base.lower(), "the " + base, base + ".", base.replace("-", " "), base + "'s",
                    base.replace(" ", ""), "other", base.replace(",", ""), " " + base + " ", base.replace("'", "")]
        if i == 149:
            base, variants = "." * 40 + "x", ["." * 8 + "x", "x", "." * 40 + "x"]
        given = [RNG.choice(variants[:RNG.randint(1, len(variants))]) for _ in range(10)]
        text = RNG.choice(variants)
        rows.append({"question_id": 34602 + i, "image_id": f"{i:x}", "question": f"What is written in {i}?",
                     "answers": given})
        answers.append({"question_id": 34602 + i, "text": text})
        normal = evaluator.answer_processor(text)
        score = evaluator._compute_answer_scores(given).get(normal, 0.0)
        expected[str(34602 + i)] = [normal, score]
    folder = out / "textvqa"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    write_lines(folder / "answers.jsonl", answers)
    accuracy = evaluator.eval_pred_list([{"pred_answer": a["text"], "gt_answers": r["answers"]}
                                         for a, r in zip(answers, rows)])
    write(folder / "expected.json", {"items": expected, "accuracy": accuracy})
    return len(answers)


# ---- CHAIR ----

def load_chair(scripts):
    names = {n: types.ModuleType(n) for n in ("pattern", "pattern.text", "pattern.en")}
    text = names["pattern.text"]
    text.Verbs = object
    for name in ("INFINITIVE PRESENT PAST FUTURE FIRST SECOND THIRD SINGULAR PLURAL SG PL PROGRESSIVE "
                 "PARTICIPLE").split():
        setattr(text, name, name)
    sys.modules.update(names)
    source = (scripts / "inflect.py").read_text().split("#### VERB CONJUGATION")[0]
    inflect = {"__file__": str(scripts / "inflect.py")}
    exec(compile(source, "inflect.py", "exec"), inflect)
    names["pattern.en"].singularize = inflect["singularize"]
    import nltk
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    nltk.tokenize.sent_tokenize = lambda text, language="english": PunktSentenceTokenizer().tokenize(text)
    nltk.word_tokenize.__globals__["sent_tokenize"] = nltk.tokenize.sent_tokenize
    import chair
    return chair, inflect["singularize"]


def plural(word):
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


CAPTIONS = """
A dog. A cat.|a dog.A cat|a dog, a cat|a dog,a cat|dog,,cat|dog:cat|the dogs' bowl|the dog's bowl's edge|dog-like cat|hot dogs|
a hot dog and hot, dog|"dog"|"a dog" said the man|'dog'|‘dog’|“cat”|the man’s hat|(dog)|[cat]|{bear}|<sheep>|dog/cat|dog & cat|dog;cat|
the seat of the toilet|toilet seats|a seat|a seat near toilets|baby elephants|a baby and an elephant|adult bear|passenger trains|
wine glasses on tables|wine glass|a glass of wine|bow ties|a bow|potted plants|traffic lights|street light.|stop sign!|fire hydrants?|
two buses|a bus|the bus.|geese and mice|knives, forks|three people|women and men|children|firemen|four boys|skis|skier|a ski|sheep|
oxen|a television set|TVs|a TV.|tv|cell phones|cellphones|phones|iPhone|an iPhones|motor bikes|motorbikes|motor cycle|airplanes|air planes|
"dogs."|dogs.)|dogs...|dogs... cats|dogs.. cats|dogs . cats|(a dog.) a cat|dog?cat|dog!cat|dog? cat!|*dog*|#dog|dog%|$dog|dog@cat|--dog--|dog--cat|
dog – cat|dog—cat|e.g. dogs|u.s. bus|mr. man|a dog 's tail|dogs'|man's|cats'.|isn't a dog|dog'll|dog've|he's a boy|gonna dog|
teddy bears|teddybear|bears|home plate|plates|train tracks|train track|trains|laptop computers|laptop and computer|computer mouse|mice|
stove top oven|ovens|a pair of scissors|scissor|sports balls|balls|baseball bats|baseball glove and bat|tennis rackets|racket|couches|benches|
sandwiches|donuts|cakes|cheesecakes|hair driers|hairdryers|toothbrushes|vases|clocks|books|refrigerators|fridge|sinks|toasters|microwaves|remotes|
keyboards|giraffes|zebras|cows|calves|calf|ponies|puppies|doggies|doggie|collies|people's|person-sized|bird_house|a.bird|bird.|birds:|12:dogs|1,dogs|
dogs,1 cat|dogs:1|``dog''|''cat''|dog"cat|5 dogs' 6 cats'|« dog »|dog…|dog\ncat|dog\tcat|\u00a0dog\u3000cat|DOG|Dog's|
""".replace("\n", "")


def make_chair(scripts, out):
    chair, singularize = load_chair(scripts)
    synonyms = [line.strip().split(", ") for line in chair.synonyms_txt.splitlines() if line.strip()]
    categories = [row[0] for row in synonyms]
    listed = sorted({w.strip() for row in synonyms for w in row})
    words = [w for phrase in listed for w in (phrase, plural(phrase), phrase + "'s", phrase + "'", phrase.capitalize())]
    captions = CAPTIONS.encode("utf-8").decode("utf-8").replace("\\n", "\n").replace("\\t", "\t")
    captions = captions.replace("\\u00a0", "\u00a0").replace("\\u3000", "\u3000").split("|")
    filler = "a the with and on near two of next to large , . ; : ( ) \" ' ! ? - -- baby adult passenger 's".split()
    while len(captions) < 290:
        pieces = [RNG.choice(filler) if RNG.random() < 0.55 else RNG.choice(words) for _ in range(RNG.randint(3, 18))]
        captions.append(re.sub(r" ([,.;:!?')])", lambda m: m.group(1) if RNG.random() < 0.7 else m.group(0),
                               " ".join(pieces)))
    images = [{"id": 100 + i, "file_name": f"{100 + i}.jpg"} for i in range(len(captions))]
    instances = [{"id": n, "image_id": image["id"], "category_id": 1 + RNG.randrange(80)}
                 for n, image in enumerate(i for i in images for _ in range(RNG.randint(0, 3)))]
    references = [{"id": n, "image_id": image["id"], "caption": RNG.choice(captions)} for n, image in enumerate(images)]
    folder = out / "chair"
    folder.mkdir(parents=True, exist_ok=True)
    instances_file = {"images": images, "categories": [{"id": 1 + i, "name": n} for i, n in enumerate(categories)],
                      "annotations": instances}
    captions_file = {"images": images, "annotations": references}
    write(folder / "instances_val2014.json", instances_file)
    write(folder / "captions_val2014.json", {"annotations": references})
    answers = [{"image_id": image["id"], "caption": text} for image, text in zip(images, captions)]
    write_lines(folder / "answers.jsonl", answers)
    with tempfile.TemporaryDirectory() as work:
        for kind, value in (("instances", instances_file), ("captions", captions_file)):
            empty = {**value, "images": [], "annotations": [], "info": {}, "licenses": []}
            write(Path(work, f"{kind}_train2014.json"), empty)
            write(Path(work, f"{kind}_val2014.json"), {**value, "info": {}, "licenses": []})
        judge = None
        def run():
            nonlocal judge
            judge = chair.CHAIR(work)
        run_printing(run)
        result = judge.compute_chair(str(folder / "answers.jsonl"), "image_id", "caption")
    items = {str(s["image_id"]): [s["mscoco_generated_words"], s["mscoco_hallucinated_words"], sorted(s["mscoco_gt_words"])]
             for s in result["sentences"]}
    write(folder / "expected.json", {"items": items, "overall": result["overall_metrics"]})
    single = sorted({w.lower() for phrase in words for w in phrase.split()} | set(SINGULARS.split()))
    write(folder / "singular.json", {w: singularize(w) for w in single if singularize(w) not in (w, w[:-1])} |
          {w: singularize(w) for w in single[::3]})
    return len(answers)


# ---- more: one small file of cases by hand, {text: what the scripts make of it} ----

MORE_POPE = """
Not sure, yes|Not sure. Yes|yes, not|yes; no|no: yes|no - yes|no- yes|No way|It's a no|It's a no-go|It's a no go|Yes!|Yes! No.|Answer: no|
Answer:no|A: No|<no>|**no**|**No** there is|no</s>|No\nYes|Yes\nNo|No \nYes|yes\n\nno|yes \nno|\tno|no\t|no\u2028|unknown|notable|noted|No one|
Neither, no|neither|False|No..|..No|. No|No .|No , yes|N o|n't|isn't no|couldn't|can't. no|it is not.there|there is NO dog|NOT|Not.|not,|
,|.|, .| . no|no.no|NO.no|5 no 3|No\u00a0dog|Yes, I can see no dog|I do not know|Yes, there are two dogs. Not one.|There aren't|There are none|wasn't.
"""
MORE_SCIENCE = """
A|B |c|a|b.|A) west|(A) west|A)|[A]|A west|A,B|A and B|A or B|A.B|A. B. C|B. the answer is A.|A.  two blanks|A.\ttab|A.\nline|A\n|A\n\nBecause|\nA|
Answer: A|Answer is A.|The answer is A|The answer is A.|The answer is A. |The answer is (A).|The answer is a.|The answer is: A.|The answer is A, not B.|
The answer is AB.|The answer is A. The answer is A.|The answer is A. The answer is B.|The answer is C.\nThe answer is C.|the Answer is A.|
THE ANSWER IS A.|The answer is  A.|The answer is A!|The answer is A?|The answer is E.|The answer is F.|E|F|E. x|F. x|D|D.|D. |Option A|option A.|
The answer is \u00c4.|\u00c4|A\u00a0|\u2003A|A\u3002|The answer is A\u3002|The answer is A\n.|.A|-A|A-|**A**|A:|A;|It is A.|So A. Yes|I think The answer is B.
"""
MORE_TEXTVQA = """
isnt|is nt|Isn't|ISNT|dont know|don t know|shouldnt've|shouldn'tve|y'all'd've|yall|oclock|5 oclock|5 o'clock|o' clock|a|an|the|A The An|the the|
theory|another|none|None.|no ne|zero one two three|ten eleven|twentyone|One.|one's|ones|two's|3's|'s|s'|boss'|boss's|it's its|5.|5.5|5. 5|.5.|5.5.|
a.b|a. b|a .b|a . b|...|1,5|1, 5|1 ,5|,|?|what?|wh?at|why ? not|co-op|co -op|co- op|co - op|-|--|a-b-c|x/y|x / y|x /y|"q"|" q "|(p)|( p )|[b]|{c}|
=|+1|1+1|1 + 1|a\\b|a_b|a _b|<t>|@me|me@x.com|`x`|!|wow!|wow !|!wow|semi;colon|semi ;colon|colon:x|#1|# 1|$5|5%|5 %|&|r&b|~|^|*|a*b|\u00e9t\u00e9|\u00c9T\u00c9|
\u00df|\ufb01|\u2019s|it\u2019s|\u201cq\u201d|5\u00bd|\u0663.|5.\u0663|\u00a0a\u00a0|a\u00a0b|a\tb|a\nb|\na|tab\t|\r|a\rb|let's|lets|letsgo|cant.|cant,|can't,t|the.|the-x|a-the|
"""
MORE_TEXTVQA_PROMPTS = [
    "What is IT?\nReference OCR token: A, B\nAnswer the question using a single word or phrase.",
    "Reference OCR token: A, B\nWhat is it?\nAnswer the question using a single word or phrase.",
    "What is it?\nAnswer the question using a single word or phrase.",
    "what is it? \nShort answer.",
    "OCR tokens: A, B. Question: What IS it? Short answer:",
    "OCR tokens: A Question: B. Question: really? Short answer:\nmore",
    "What is the Reference OCR token: here?\nReference OCR token: X\nAnswer.",
]
MORE_LOWER = ["\u03a3", "\u039f\u03a3", "\u039f\u03a3 \u03a3\u039f\u03a3", "\u039f\u03a3\u039f", "\u039f\u03a3.", "\u039f\u03a3'\u039f", "\u039f\u03a3.\u039f\u03a3", "\u039f\u0301\u03a3\u0301", "1\u03a3",
              "\u039f\u03a31", "\u039f\u03a3\u03a3", "A\u03a3b", "A\u03a3-b", "\u65e5\u03a3", "\u0130", "I\u0130i", "\u0130stanbul", "\u01c5\u03a3", "STRASSE \u1e9e", "\u1f88", "\u0410\u0411\u0412", "\uff21",
              "\U00010400", "\u2160", "\u24b6", "\u10a0", "\u13a0", "\u01f1", "K\u212a", "\u03f4", "\u02b0\u03a3", "A\u02b0\u03a3", "\u00aa\u03a3", "\u2160\u03a3"]
MORE_CHAIR = """
a toilet seat|toilet seats|the seat of a toilet|seats and a toilet|a toilet and a chair seat|hot dogs|a hot, dog|hot  dog|hot-dog|hotdogs|dog dog|a dog dog dog|
two dogs, two dogs|cell-phone|cell phone phone|a wine-glass|wine glasses|a glass|glasses|teddy-bears|teddy bear bear|a motor-cycle|motor bikes and bikes|air plane plane|
traffic lights|traffic light light|street signs|stop signs|a stop|baseball bats and gloves|baseball games|tennis rackets|tennis balls|a tennis court|sports balls|ball games|
baby birds|baby animals|a baby, bird|baby baby|adult people|adult cows|an adult|passenger jets|passenger planes|passenger trains|a train passenger|home plates|dinner plate|
train tracks|track train|bow ties|bows|tied|a tie dye|laptop computers|computers|computer monitors|a mouse pad|remote controls|tv remotes|tvs|t.v.|televisions|
potted plants|plants|a plant pot|house-plants|couches|sofas|loveseats|stools|bar stools|benches|beds|bedding|desks|tables|table-top|dining tables|kitchen sinks|
sinking|bookshelves|book's|books'|knives|knife|forks & spoons|cups; bowls|bottle-neck|bananas|apple pie|oranges|orange shirt|carrot cake|cup cakes|cupcakes|donut's|
pizzas|sandwiches|subs|suburb|bus|buses|busses|school bus|trolleys|vans|cabs|taxis|trucks|pick-up|pickups|ships|boating|kites|kiting|skis|skiing|ski poles|skiers|
snow boards|snowboarders|surf boards|surfboards|surfers|skate boards|skateboarders|frisbees|umbrellas|hand bags|handbags|purses|wallets|back packs|suit cases|suitcases|
luggage|cats.|cats.dogs|cats. dogs|"cats"|cats'|cat's|the cats's|kittens|sheep|sheeps|goats|oxen|ox|calves|horses|ponies|zebras|giraffes|elephants|bears|pandas|
women|woman's|mens|ladies|policemen|firemen|snowmen|humans|crowd|girls'|kids|children's|childs|babies|guys|persons|peoples|Person|CHEF|chefs|\u00e9lan dog|dog\u2019s|
two dogs. " cats|two dogs. ' cats|two dogs.' cats|two dogs. '' cats|two dogs. \u201c cats|two dogs. \u2018cats|two dogs. \u2019 cats|dogs. " " cats. cows|two dogs. )cats|two dogs. ) cats|
dogs. ' -- cats|dogs. '--cats|dogs!" cats|dogs. "|dogs. \u2018 \u201c cats|dogs.\u00a0" cats|dogs." "cats. cows."|
two dogs.)cats. cows|two dogs.)cats.|dogs.\u00a0cats. cows|dogs.\u3000cats.\u3000cows|dogs!? cats|dogs.\ncats.\tcows
"""


def cases(text):
    return [t for t in text.strip().replace("\n", "").split("|")]


def function_of(path, name):
    """One function of a script whose imports are not wanted."""
    tree = ast.parse(path.read_text())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    space = {}
    exec(compile(ast.Module(found, []), str(path), "exec"), space)
    return space[name]


def more_pope(scripts):
    import eval_pope
    recorder = function_of(scripts / "opera_pope_eval.py", "recorder")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as labels:
        texts = [unescape(t) for t in cases(MORE_POPE)]
        labels.write("".join(json.dumps({"label": ("yes", "no")[i % 2]}) + "\n" for i in range(len(texts))))
        labels.flush()
        answers = [{"text": t} for t in texts]
        run_printing(lambda: eval_pope.eval_pope(answers, labels.name))
    return [[t, a["text"], ("no", "yes")[o]] for t, a, o in zip(texts, answers, recorder(texts, []))]


def unescape(text):
    """\\n, \\t, \\\\ and \\uXXXX as in a string literal, all else as it is."""
    return re.sub(r"\\\\(u[0-9a-f]{4}|.)", lambda m: {"n": "\n", "t": "\t", "r": "\r"}.get(m[1], m[1] if len(m[1]) == 1
                  else chr(int(m[1][1:], 16))), text)


def more_science(scripts):
    texts = [unescape(t) for t in cases(MORE_SCIENCE)]
    problems = {str(i): {"question": "?", "choices": list("wxyz"), "answer": 0, "hint": "", "image": "image.png"}
                for i in range(len(texts))}
    parsed = []
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write(work / "problems.json", problems)
        write(work / "pid_splits.json", {"test": list(problems)})
        write_lines(work / "a.jsonl", [{"question_id": str(i), "prompt": "<image>", "text": t} for i, t in enumerate(texts)])
        for script in ("eval_science_qa.py", "eval_science_qa_5200b75.py"):
            subprocess.run([sys.executable, scripts / script, "--base-dir", work, "--result-file", work / "a.jsonl",
                            "--output-file", work / "o.json", "--output-result", work / "r.json"], check=True, capture_output=True)
            judged = json.loads((work / "o.json").read_text())
            parsed.append({a["question_id"]: a["parsed_ans"] for side in judged.values() for a in side})
    return [[t, *(p[str(i)] for p in parsed)] for i, t in enumerate(texts)]


def more_science_prompts(scripts):
    """Prompts of LLaVA's converter and of its model_vqa_science.py, for questions with blanks in odd places."""
    build = __import__("convert_sqa_to_llava_base_prompt").build_prompt_chatbot
    made = []
    for question, hint, choices in (("Which?", "", ["a", "b"]), ("Which  one ?", " Look   here.\nThen there. ", ["a  b", " c", "d "]),
                                    ("Which\nline?", "  ", ["x"]), ("", "Hint", ["a", "b", "c", "d", "e"]),
                                    ("Wh\u00e9re?", "5 < 6\t", ["(A) odd", "B"])):
        problem = {"question": question, "hint": hint, "caption": "", "choices": choices, "answer": 0, "lecture": "", "solution": ""}
        asked, _ = build({"1": problem}, ["1"], "CQM-A", use_caption=False, is_test=False)["1"]
        text = f"{asked}\n<image>".replace("<image>", "").strip()
        made.append([question, hint, choices, text + "\nAnswer with the option's letter from the given choices directly."])
    return made


def make_more(scripts, out):
    import m4c_evaluator
    sys.modules["llava.eval.m4c_evaluator"] = m4c_evaluator
    for name in ("llava", "llava.eval"):
        sys.modules[name] = types.ModuleType(name)
    from eval_textvqa import prompt_processor
    process = m4c_evaluator.TextVQAAccuracyEvaluator().answer_processor
    chair, _ = load_chair(scripts)
    chair.CHAIR.get_annotations = lambda self: None
    judge = chair.CHAIR("")
    captions = [unescape(t) for t in cases(MORE_CHAIR)]
    more = {"pope": more_pope(scripts), "scienceqa": more_science(scripts), "scienceqa_prompts": more_science_prompts(scripts),
            "textvqa": [[t, process(t)] for t in map(unescape, cases(MORE_TEXTVQA))],
            "textvqa_prompts": [[p, prompt_processor(p)] for p in MORE_TEXTVQA_PROMPTS],
            "chair": [[c, judge.caption_to_words(c)[1]] for c in captions], "lower": [[t, t.lower()] for t in MORE_LOWER]}
    write(out / "more.json", more)
    return {name: len(rows) for name, rows in more.items()}


SINGULARS = """
s es ss news mothers-in-law men-of-war brothers-on quizzes matrices indices oxen oxens aliases octopi viri crises axes tests
shoes toes heroes buses mice lice slice kisses boxes churches movies zombies series ladies queries wolves calves leaves scarves
nerves knives lives shelves gloves hives natives beliefs caves proofves analyses bases diagnoses theses synopses paralyses roses poses
glucose neuroses data media criteria pasta pizza news bus gas glass colour four feet teeth people children geese women humans human
opera genera axe cookies ties pies lies skies flies gallows corps species swiss cod od u a ae formulae itis arthritis plateaux
"""


def main():
    scripts, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    for make in (make_pope, make_scienceqa, make_textvqa, make_chair, make_more):
        print(make.__name__, make(scripts, out), "predictions")


if __name__ == "__main__":
    main()
