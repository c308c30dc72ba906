"""Manifests and what they seal, for any content: what was written is read back, or refused."""

import json
import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import save_features

from trak_steps.data.prepared import digest_inputs
from trak_steps.errors import TrakError
from trak_steps.store.artefact import artefact_manifest, check_artefact
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.document import load_document, save_document
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest, digest_json, sealed
from trak_steps.store.table import load_table, save_table
from trak_steps.store.tree import MANIFEST, check_tree, digest_tree

names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
manifests = st.builds(
    Manifest,
    kind=st.sampled_from(["model", "data", "features"]),
    made_from=st.dictionaries(texts, names, max_size=4),
    settings=st.dictionaries(texts, json_values, max_size=4),
    version=st.integers(0, 9),
    content=names,
    details=st.dictionaries(texts, json_values, max_size=4),
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "content").write_text("something")
        manifest.save(folder)
        found = Manifest.load(folder, manifest.kind)
        assert found.made_from == manifest.made_from
        assert digest_json(found.settings) == digest_json(manifest.settings)
        assert digest_json(found.details) == digest_json(manifest.details)
        assert (found.content, found.version) == (manifest.content, manifest.version)
        check_artefact(folder)


@given(manifests, st.data())
def test_a_manifest_with_another_value_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    """Whatever value or key is changed, also one that a reader would not look at."""
    document = sealed(manifest.to_dict())
    path = data.draw(st.sampled_from(sorted(map(json.dumps, _paths(document)))))
    changed = json.loads(json.dumps(document))
    _change(changed, json.loads(path), data.draw(json_values.filter(lambda value: value != "")))
    if changed == document:
        return
    with pytest.raises(TrakError):
        Manifest.from_document(changed, manifest.kind, Path("somewhere"))


def _paths(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above] if above else []
    if isinstance(document, dict):
        for key in document:
            found += _paths(document[key], (*above, key))
    return found


def _change(document: Any, path: list[Any], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@given(json_values)
def test_what_is_no_manifest_is_refused_without_a_traceback(values: Any) -> None:
    with TemporaryDirectory() as name:
        (Path(name) / MANIFEST).write_text(json.dumps(values))
        with pytest.raises(TrakError):
            Manifest.load(Path(name))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with TemporaryDirectory() as name:
        for file in (MANIFEST, "x.json", "x.parquet"):
            (Path(name) / file).write_bytes(data)
            with pytest.raises(TrakError):
                artefact_manifest(Path(name) / file if file != MANIFEST else Path(name))


@given(manifests, st.dictionaries(texts, json_values, max_size=3), names)
def test_a_requirement_holds_exactly_for_what_a_manifest_says(
    manifest: Manifest, others: dict[str, Any], name: str
) -> None:
    manifest.require(
        Path("x"),
        made_from=manifest.made_from,
        settings=json.loads(json.dumps(manifest.settings)),
        version=manifest.version,
    )
    for key, value in others.items():
        if key not in manifest.settings or manifest.settings[key] != value:
            if value is None and key not in manifest.settings:
                continue
            with pytest.raises(TrakError, match="made with another"):
                manifest.require(Path("x"), settings={key: value})
    if manifest.made_from.get("path") != name:
        with pytest.raises(TrakError, match="was made from"):
            manifest.require(Path("x"), made_from={"path": name})


trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), min_size=1, max_size=5
)


@given(trees, trees)
def test_a_folder_is_as_it_was_or_refused(files: dict[str, bytes], others: dict[str, bytes]) -> None:
    """Files added, removed, renamed or changed, in any way."""
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        before = _write(Path(one), files)
        after = _write(Path(two), others)
        digests = digest_tree(Path(one))
        assert set(digests) == set(before)
        check_tree(Path(one), digests)
        if before == after:
            check_tree(Path(two), digests)
        else:
            with pytest.raises(TrakError):
                check_tree(Path(two), digests)


def _write(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What could be written: a name may be a folder already."""
    for name, data in files.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        except OSError:
            continue
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


features = hnp.arrays(
    st.sampled_from([np.float32, np.float16]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-100, 100, width=16),
)


@settings(deadline=None)
@given(features, st.sampled_from(["none", "zstd", "blosc"]), st.data())
def test_a_store_gives_back_what_was_written_or_nothing(
    values: np.ndarray[Any, Any], codec: str, data: st.DataObject
) -> None:
    """For any numbers, zeros and single rows too; and for any byte of it that is changed."""
    n, dim = values.shape
    columns = {
        "loss_weight": values[:, 0].astype(np.float32),
        "margin": values[:, -1].astype(np.float32),
        "prediction": np.arange(n),
        "row": np.arange(n)[::-1].copy(),
    }
    with TemporaryDirectory() as name:
        path = Path(name) / "x.zarr"
        manifest = Manifest("features", settings={"dim": dim}, details={"start": 0, "stop": n})
        save_features(path, values, columns, manifest, codec_arguments(codec, 10, str(values.dtype)))
        store = FeatureStore.open(path)
        start = data.draw(st.integers(0, n - 1))
        assert store.features(start, n).tobytes() == values[start:].tobytes()
        for column, wanted in columns.items():
            assert store.column(column).tobytes() == wanted.tobytes()
        check_artefact(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        file = data.draw(st.sampled_from(files))
        before = file.read_bytes()
        place, bit = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(0, 7))
        changed = bytearray(before)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        if file.name == MANIFEST:
            try:
                if json.loads(changed) == json.loads(before):
                    return
            except ValueError:
                pass
        with pytest.raises(TrakError):
            check_artefact(path)


tables = st.lists(st.tuples(texts, st.integers(-9, 9), st.floats(-1, 1, width=32)), max_size=8)


@settings(deadline=None)
@given(tables, st.integers(1, 4))
def test_a_table_comes_back_whatever_its_chunks(rows: list[tuple[str, int, float]], size: int) -> None:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    types = (pa.string(), pa.int64(), pa.float32())
    table = pa.table(
        {name: pa.array(column, kind) for name, column, kind in zip("abc", columns, types, strict=True)}
    )
    chunked = pa.Table.from_batches(table.to_batches(max_chunksize=size), table.schema)
    with TemporaryDirectory() as name:
        path = Path(name) / "x.parquet"
        save_table(path, chunked, Manifest("top"))
        found, _ = load_table(path, "top")
        assert found.to_pylist() == table.to_pylist()


@given(st.dictionaries(texts.filter(lambda name: name != "manifest"), json_values, max_size=4))
def test_figures_come_back_and_other_figures_are_refused(values: dict[str, Any]) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "x.json"
        save_document(path, values, Manifest("summary"))
        assert digest_json(load_document(path, "summary")[0]) == digest_json(values)
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "accuracy": 1.5}))
        if values.get("accuracy") != 1.5:
            with pytest.raises(TrakError, match="altered"):
                load_document(path, "summary")


@given(
    st.lists(
        st.tuples(st.integers(0, 2**40), st.integers(0, 9), st.lists(st.integers(0, 30000), max_size=9)),
        min_size=1,
        max_size=6,
        unique_by=repr,
    )
)
def test_rows_have_the_same_digest_exactly_if_they_are_the_same(
    rows: list[tuple[int, int, list[int]]],
) -> None:
    """Whatever rows they stand beside, and however their numbers could be split between columns."""
    whole = digest_inputs(_table(rows))
    alone = [digest_inputs(_table([row]))[0] for row in rows]
    assert (whole == np.stack(alone)).all()
    assert len({digest.tobytes() for digest in whole}) == len(rows)


def _table(rows: list[tuple[int, int, list[int]]]) -> pa.Table:
    ids, labels, tokens = zip(*rows, strict=True)
    return pa.table(
        {
            "row": pa.array(ids, pa.int64()),
            "label": pa.array(labels, pa.int64()),
            "input_ids": pa.array(tokens, pa.list_(pa.int32())),
        }
    )


def test_what_an_earlier_layout_wrote_is_refused_for_that(tmp_path: Path) -> None:
    """Also a Zarr store whose manifest lay in its attributes: to be made anew, not damaged."""
    Manifest("model", format=3).save(tmp_path)
    with pytest.raises(TrakError, match="has layout 3, this version reads 4"):
        check_artefact(tmp_path)
    store = tmp_path / "0.zarr"
    store.mkdir()
    (store / "zarr.json").write_text('{"attributes": {"manifest": {"kind": "kernel", "format": 3}}}')
    with pytest.raises(TrakError, match="of an earlier version; delete it"):
        check_artefact(store)


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    folder = tmp_path / "inside"
    folder.mkdir()
    manifest = Manifest("model", files={"../outside": "0" * 64}).to_dict()
    (folder / MANIFEST).write_text(json.dumps(sealed(manifest)))
    with pytest.raises(TrakError, match=r"its \.\./outside is missing"):
        check_artefact(folder)


def test_a_link_to_a_file_that_is_gone_is_missing_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    Manifest("model").save(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TrakError, match="its a cannot be read"):
        check_artefact(tmp_path)
