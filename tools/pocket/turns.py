"""Packs several question turns per picture into one sequence.

A sequence is the shared prefix `<s>USER: <image...>` followed by the turns. Each
turn sees the prefix and itself only and counts its positions from the end of the
prefix, so it is computed exactly as if it had been asked alone.
"""

from dataclasses import dataclass

import torch

from questions import TASKS

CLOSED = -30000.0  # additive attention bias that closes a connection


def prompt_of(question):
    """The prompt as it is given to the model, up to and without the answer."""
    return f"USER: <image>\n{question} ASSISTANT:"


def weight_of(task, i, length, asked):
    """Weight in the loss of token i of a turn: little for the end and for each token of a long answer."""
    if i == length - 1:
        return 0.2
    if length - asked >= 4:
        return 0.3
    return 4.0 if TASKS[task] == "leftright" else 1.0


@dataclass
class Batch:
    """Token ids without image tokens, and where everything stands."""

    ids: torch.Tensor  # (batch, start + turn tokens)
    start: int  # tokens before the image tokens
    positions: torch.Tensor  # (batch, time), image tokens counted
    prefix_bias: torch.Tensor  # (prefix, prefix)
    turn_bias: torch.Tensor  # (batch, 1, turn tokens, time)
    at: torch.Tensor  # flat positions whose next token is part of an answer
    targets: torch.Tensor  # those next tokens
    weights: torch.Tensor  # their weight in the loss
    tasks: torch.Tensor  # index of the task each belongs to
    turns: torch.Tensor  # running number of the turn each belongs to


class Packer:
    """Turns lists of questions into batches."""

    def __init__(self, tokenizer, image_tokens):
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        self.image_id = tokenizer.token_to_id("<image>")
        self.end_id = tokenizer.token_to_id("</s>")
        self.head, _ = self._split("x")

    def _split(self, text):
        ids = self.tokenizer.encode(f"USER: <image>\n{text}").ids
        cut = ids.index(self.image_id)
        return ids[:cut], ids[cut + 1:]

    def _turn(self, question):
        """Token ids of one turn and the number of them that are the question."""
        _, asked = self._split(f"{question.prompt} ASSISTANT:")
        _, whole = self._split(f"{question.prompt} ASSISTANT: {question.answer}")
        assert whole[: len(asked)] == asked
        return whole + [self.end_id], len(asked)

    def _row(self, questions, budget):
        """The turns of one picture that fit into the budget of tokens."""
        row = []
        for question in questions:
            ids, asked = self._turn(question)
            if len(ids) <= budget:
                budget -= len(ids)
                row.append((ids, asked, TASKS.index(question.task)))
        return row

    def pack(self, asked, device="cpu", dtype=torch.bfloat16, budget=192):
        """asked: for each picture a list of questions; those beyond the budget are left out."""
        start, prefix = len(self.head), len(self.head) + self.image_tokens
        rows = [self._row(questions, budget) for questions in asked]
        length = max(sum(len(ids) for ids, _, _ in row) for row in rows)
        batch = len(rows)
        ids = torch.full((batch, start + length), self.end_id)
        ids[:, :start] = torch.tensor(self.head)
        positions = torch.arange(prefix + length).repeat(batch, 1)
        owner = torch.full((batch, length), -1)
        at, targets, weights, tasks, turns = [], [], [], [], []
        count = 0
        for b, row in enumerate(rows):
            offset = 0
            for tokens, question, task in row:
                n = len(tokens)
                ids[b, start + offset: start + offset + n] = torch.tensor(tokens)
                positions[b, prefix + offset: prefix + offset + n] = torch.arange(prefix, prefix + n)
                owner[b, offset: offset + n] = count
                base = b * (prefix + length) + prefix + offset
                for i in range(question, n):
                    at.append(base + i - 1)
                    targets.append(tokens[i])
                    weights.append(weight_of(task, i, n, question))
                    tasks.append(task)
                    turns.append(count)
                offset += n
                count += 1
        own = (owner[:, :, None] == owner[:, None, :]) & torch.ones(length, length).tril().bool()
        turn_bias = torch.zeros(batch, 1, length, prefix + length, dtype=dtype)
        turn_bias[:, 0, :, prefix:].masked_fill_(~own, CLOSED)
        prefix_bias = torch.full((prefix, prefix), CLOSED, dtype=dtype).triu(1)
        tensors = (ids, positions, prefix_bias, turn_bias, torch.tensor(at), torch.tensor(targets),
                   torch.tensor(weights), torch.tensor(tasks), torch.tensor(turns))
        ids, positions, prefix_bias, turn_bias, *rest = (t.to(device) for t in tensors)
        return Batch(ids, start, positions, prefix_bias, turn_bias, *rest)
