"""Builds the tokenizer: byte-fallback BPE of LLaMA's legacy shape.

    python3 tokenizer.py OUT_FOLDER

The merges are learnt from the closed list of words, so that each of them is one
token; what is left of the vocabulary goes to common English words.
"""

import argparse
import json
from pathlib import Path

from tokenizers import (AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers)
from tokenizers.pre_tokenizers import Split

import questions

SIZE = 1024
SPACE = "\u2581"
SPECIAL = ("<unk>", "<s>", "</s>")
ADDED = ("<image>", "<pad>")
LINE_STARTS = ("What", "Which", "Is", "Name", "Read", "List", "Please", "Describe", "Answer", "How",
               "Are", "Where", "Who")  # words that follow a newline, hence without a space
COMMON = """
the and that have for not with you this but his from they say her she will one all would
there their what out about who get which when make can like time just him know take people
into year your good some could them see other than then now look only come its over think
also back after use how our work first well way even new want because any these give day
most are was has where color colour many much does many count number animal plant big near
under behind above below front wearing holding person man woman child water sky grass road
describe short long bottom top middle between picture photo scene shown show shape round
"""


def merges(pieces):
    """Learns merges inside the pieces until each is a single token."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Split("\n", "removed")
    trainer = trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, show_progress=False)
    learner.train_from_iterator(["\n".join(pieces)], trainer)
    return [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]


def build():
    """Returns the tokenizer with SIZE entries."""
    alphabet = [SPACE, *(chr(c) for c in range(33, 127))]
    tokens = [*SPECIAL, *(f"<0x{b:02X}>" for b in range(256))]
    learnt = merges([*(SPACE + w for w in questions.vocabulary()), *LINE_STARTS])
    room = SIZE - len(tokens) - len(alphabet) - len(ADDED)
    if len(learnt) > room:
        raise SystemExit(f"{len(learnt)} merges for {room} places")
    known = {a + b for a, b in learnt}
    for merge in merges([SPACE + w for w in COMMON.split()]):
        if len(learnt) < room and "".join(merge) not in known:
            known.add("".join(merge))
            learnt.append(merge)
    tokens += ["".join(m) for m in learnt] + alphabet
    model = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=learnt,
                       unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE),
                                                 normalizers.Replace(" ", SPACE)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True)
                                  for t in (*SPECIAL, *ADDED)])
    return tokenizer


def check(tokenizer):
    """Fails unless every word of the closed list is one token within a prompt."""
    for word in questions.vocabulary():
        ids = tokenizer.encode(f"USER: <image>\n{word} ASSISTANT: {word}").tokens
        if ids[-1] != SPACE + word:
            raise SystemExit(f"{word!r} is not one token: {ids}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build()
    check(tokenizer)
    tokenizer.save(str(args.out / "tokenizer.part"))
    (args.out / "tokenizer.part").rename(args.out / "tokenizer.json")
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
