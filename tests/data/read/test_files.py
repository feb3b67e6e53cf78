"""Files of any content are rows, or an error that a user is meant to read; what was written comes back."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.files import read_file
from mixalign.errors import MixalignError

few = settings(max_examples=60, deadline=None, derandomize=True)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # no halves of surrogate pairs, as in a file
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=5)
PIECES = st.sampled_from(
    ['{"a": 1}', "{", "}", "[", "]", '"', ",", "\n", "\r", "a", "1", "\ufeff", "\\ud800", "\x00", ":"]
)
CONTENT = st.binary(max_size=40) | st.lists(PIECES, max_size=12).map(lambda parts: "".join(parts).encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@given(content=CONTENT, name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"]))
@few
def test_any_content_is_rows_or_an_error_for_the_user(folder, content, name):
    path = folder / name
    path.write_bytes(content)
    try:
        table = read_file(path)
    except MixalignError:
        return
    assert len(table.numbers) == len(table.rows)
    assert all(isinstance(row, dict) for row in table.rows)
    assert [*table.numbers] == sorted(set(table.numbers))


@given(rows=ROWS, ascii_only=st.booleans(), compress=st.booleans())
@few
def test_json_lines_come_back(folder, rows, ascii_only, compress):
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
    path = folder / ("rows.jsonl.gz" if compress else "rows.jsonl")
    path.write_bytes(gzip.compress(text, mtime=0) if compress else text)
    table = read_file(path)
    assert table.rows == rows
    assert [*table.numbers] == [*range(1, len(rows) + 1)]


@given(rows=ROWS, indent=st.none() | st.integers(0, 2))
@few
def test_an_array_comes_back(folder, rows, indent):
    (folder / "rows.json").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert read_file(folder / "rows.json").rows == rows


@given(st.data(), st.lists(TEXT.filter(bool), min_size=2, max_size=4, unique=True))
@few
def test_a_csv_comes_back(folder, data, header):
    cells = st.lists(TEXT.filter(lambda text: "\x00" not in text), min_size=len(header), max_size=len(header))
    rows = data.draw(st.lists(cells, max_size=4))
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *rows])
    (folder / "rows.csv").write_bytes(stream.getvalue().encode())
    if any("\x00" in name or name.startswith("\ufeff") for name in header):
        return
    assert [[*row.values()] for row in read_file(folder / "rows.csv").rows] == rows
