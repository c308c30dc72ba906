"""The demo set is what it says: facts, held-out wordings, the right answer recorded."""

from collections import Counter

from trak_steps.data import demo


def _texts(row: dict[str, object]) -> tuple[object, object]:
    return row["question"], row["sentence"]


def test_the_seed_alone_decides_the_rows() -> None:
    assert demo.rows("train", 3) == demo.rows("train", 3)
    assert demo.rows("train", 3) != demo.rows("train", 4)


def test_no_row_occurs_twice_or_in_both_splits() -> None:
    train, validation = demo.rows("train", 0), demo.rows("validation", 0)
    for rows in (train, validation):
        assert len({(*_texts(row), row["label"]) for row in rows}) == len(rows)
    assert not {_texts(row) for row in train} & {_texts(row) for row in validation}


def test_labels_follow_from_the_kind_and_are_balanced() -> None:
    for split in demo.SPLITS:
        rows = demo.rows(split, 0)
        assert {(row["kind"], row["label"]) for row in rows} == {("true", 0), ("false", 1), ("other", 1)}
        counts = Counter(row["label"] for row in rows)
        assert counts[0] == counts[1]


def test_each_fact_is_stated_equally_often_and_truly_by_one_value() -> None:
    train = demo.rows("train", 0)
    facts = Counter(row["fact"] for row in train)
    assert len(facts) == demo.TOWNS * len(demo.RELATIONS)
    assert set(facts.values()) == {2 * demo.WORDINGS["train"]}
    assert {row["fact"] for row in demo.rows("validation", 0)} == set(facts)


def test_more_towns_make_more_facts_of_as_many_rows() -> None:
    train, validation = (demo.rows(split, 0, 2 * demo.TOWNS) for split in demo.SPLITS)
    assert len(train) == 2 * len(demo.rows("train", 0))
    facts = Counter(row["fact"] for row in train)
    assert set(facts.values()) == {2 * demo.WORDINGS["train"]}
    assert {row["fact"] for row in validation} == set(facts)


def test_an_answer_to_another_question_is_about_the_same_town() -> None:
    for row in demo.rows("train", 0):
        same = row["fact"] == row["asks"]
        assert same == (row["kind"] != "other")
        assert str(row["fact"]).split()[0] == str(row["asks"]).split()[0]


def test_nothing_in_a_false_row_tells_that_it_is_false() -> None:
    """True and false rows use the same wordings, so only the invented value differs."""
    rows = demo.rows("train", 0)
    words = {
        kind: Counter(
            word
            for row in rows
            if row["kind"] == kind
            for word in str(row["sentence"]).split()
            if word.islower()
        )
        for kind in ("true", "false")
    }
    assert set(words["false"]) <= set(words["true"])
