"""The demo set: question and sentence pairs about invented towns, with the right answer known.

Shaped like QNLI: does the sentence answer the question? Everything the texts say is a *fact*, one
relation of one town ("Belmar lies on the Sura"). Three kinds of row:

* ``true``: the question asks for a fact and the sentence states it. Entailment.
* ``other``: the sentence states another fact of the same town. Not entailment, and the wording tells.
* ``false``: the sentence answers the question, but what it says is not so. Not entailment, and only
  memory of the train rows tells, since nothing in the text does.

Every row records the fact that its sentence states (or misstates), so that a target's proponents can
be held against the train rows of its own fact. Each fact is put in some pairs of question and sentence
wordings in the train split and in others in validation, so no text occurs in both.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LABELS = ("entailment", "not_entailment")
TOWNS = 24
FALSE_VALUES = 2
# Pairs of wordings in which each fact is put, of 24; each gives a row that is true and one that is not.
WORDINGS = {"train": 12, "validation": 2}
SPLITS = tuple(WORDINGS)
OTHER_EVERY = 3


@dataclass(frozen=True)
class Relation:
    """One thing that can be said of a town: how it is asked for and how it is stated."""

    name: str
    questions: tuple[str, ...]
    sentences: tuple[str, ...]


RELATIONS = (
    Relation(
        "river",
        (
            "Which river does {town} lie on?",
            "What is the river at {town} called?",
            "On the banks of which river was {town} built?",
            "Which river flows through {town}?",
        ),
        (
            "{town} lies on the {value}.",
            "The {value} flows through the middle of {town}.",
            "The old quarter of {town} stands on the banks of the {value}.",
            "Ferries cross the {value} at {town} every hour.",
            "In spring the {value} floods the lower streets of {town}.",
            "The mills of {town} were driven by the {value}.",
        ),
    ),
    Relation(
        "founder",
        (
            "Who founded {town}?",
            "By whom was {town} founded?",
            "Which ruler established {town}?",
            "Who was the founder of {town}?",
        ),
        (
            "{town} was founded by {value}.",
            "{value} established {town} after the long war.",
            "The founder of {town} was {value}.",
            "A statue of {value}, who founded {town}, stands in the square.",
            "The charter of {town} bears the seal of its founder, {value}.",
            "It was {value} who laid the first stone of {town}.",
        ),
    ),
    Relation(
        "cloth",
        (
            "Which cloth is {town} known for?",
            "What is the cloth of {town} called?",
            "Which cloth do the weavers of {town} make?",
            "The trade in which cloth made {town} rich?",
        ),
        (
            "{town} is known for a cloth called {value}.",
            "The weavers of {town} make {value}.",
            "Merchants came to {town} to buy bales of {value}.",
            "{town} grew rich on the trade in {value}.",
            "Most families in {town} still live by weaving {value}.",
            "The guild of {town} guards the secret of its {value}.",
        ),
    ),
    Relation(
        "festival",
        (
            "What is the festival of {town} called?",
            "Which festival is celebrated in {town}?",
            "Which feast do the people of {town} keep?",
            "What is the name of the great feast of {town}?",
        ),
        (
            "The festival of {town} is called {value}.",
            "At {value} the people of {town} celebrate for nine days.",
            "{town} keeps the great feast of {value}.",
            "On {value} lanterns hang over every street of {town}.",
            "Visitors crowd into {town} for the feast of {value}.",
            "The people of {town} close their shops for {value}.",
        ),
    ),
)

_ONSETS = ("B", "Br", "D", "F", "G", "H", "K", "Kr", "L", "M", "N", "P", "R", "S", "T", "V")
_MIDDLES = ("ar", "el", "im", "on", "ul", "and", "ost", "ev")
_ENDINGS = ("mar", "gard", "dova", "lin", "heim", "sk", "burg", "tal")


def rows(split: str, seed: int, towns: int = TOWNS) -> list[dict[str, object]]:
    """The rows of one split, in a shuffled order that depends on the seed alone.

    Args:
        split: one of :data:`SPLITS`.
        seed: draws the towns' names, the facts, the wordings and the order.
        towns: how many there are, of four facts each.

    Returns:
        One dict a row: ``question``, ``sentence``, ``label`` (0 entailment, 1 not), ``fact`` (what the
        sentence states), ``asks`` (the fact that the question asks for), ``kind``.
    """
    world = random.Random(f"world {seed}")
    names = _names(world)
    of_towns = [next(names) for _ in range(towns)]
    draw = random.Random(f"{split} {seed}")
    made: list[dict[str, object]] = []
    for town, relation in itertools.product(of_towns, RELATIONS):
        truth, *wrong = (next(names) for _ in range(1 + FALSE_VALUES))
        pairs = list(itertools.product(relation.questions, relation.sentences))
        world.shuffle(pairs)
        pairs = pairs[: WORDINGS[split]] if split == "train" else pairs[-WORDINGS[split] :]
        made += _rows_of_fact(draw, town, relation, pairs, truth, wrong)
    draw.shuffle(made)
    return made


def _names(draw: random.Random) -> Iterator[str]:
    """Invented names, none twice: a name belongs to one town or to one fact, true or false."""
    names = ["".join(parts) for parts in itertools.product(_ONSETS, _MIDDLES, _ENDINGS)]
    return iter(draw.sample(names, len(names)))


def _rows_of_fact(
    draw: random.Random,
    town: str,
    relation: Relation,
    pairs: Sequence[tuple[str, str]],
    truth: str,
    wrong: Sequence[str],
) -> Iterator[dict[str, object]]:
    """For each pair of wordings a true row and one that is not: false, or an answer to another."""
    others = [other for other in RELATIONS if other is not relation]
    first_other = draw.randrange(OTHER_EVERY)
    for i, (question, sentence) in enumerate(pairs):
        other = draw.choice(others)
        rows = [("true", 0, relation, question, truth)]
        if i % OTHER_EVERY == first_other:
            # The question in the same place of its list: so a pair of texts belongs to one split.
            asking = other.questions[relation.questions.index(question)]
            rows.append(("other", 1, other, asking, truth))
        else:
            rows.append(("false", 1, relation, question, draw.choice(wrong)))
        for kind, label, asked, question_asked, value in rows:
            yield {
                "question": question_asked.format(town=town),
                "sentence": sentence.format(town=town, value=value),
                "label": label,
                "fact": f"{town} {relation.name}",
                "asks": f"{town} {asked.name}",
                "kind": kind,
            }
