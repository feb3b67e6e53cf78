"""The same rows in every kind of file give the same examples, wherever the file lies."""

import csv
import gzip
import io
import json
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from mixalign.data.read.files import SUFFIXES, read_file, read_files
from mixalign.data.read.sources import TaskSpec, load_rows, load_task
from mixalign.errors import MixalignError

ROWS = [{"prompt": f'"{n}",\t\n\u00e9', "completion": f"00{n}"} for n in range(20)]


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def table(delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerows([[*ROWS[0]], *(row.values() for row in ROWS)])
    return stream.getvalue().encode()


def arrow(stream_format: bool) -> bytes:
    rows = pyarrow.Table.from_pylist(ROWS)
    sink = pyarrow.BufferOutputStream()
    with (pyarrow.ipc.new_stream if stream_format else pyarrow.ipc.new_file)(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def in_parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def content(suffix: str) -> bytes:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    made = {".jsonl": lines, ".ndjson": lines, ".json": json.dumps(ROWS).encode()}
    made |= {".csv": table(","), ".tsv": table("\t"), ".parquet": in_parquet(), ".arrow": arrow(True)}
    data = made[suffix.removesuffix(".gz").removesuffix(".zst")]
    return gzip.compress(data) if suffix.endswith(".gz") else zstd(data) if suffix.endswith(".zst") else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A file of every suffix."""
    path = tmp_path_factory.mktemp("kinds")
    for suffix in SUFFIXES:
        (path / f"a{suffix}").write_bytes(content(suffix))
    return path


@pytest.fixture(scope="module")
def server(folder):
    """Where the files are on the web."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(folder):
    """The files in the memory of this process, as fsspec has it."""
    filesystem = fsspec.filesystem("memory")
    for file in folder.iterdir():
        filesystem.pipe_file(f"/kinds/{file.name}", file.read_bytes())
    yield "memory://kinds"
    filesystem.rm("/kinds", recursive=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_gives_the_same_rows(folder, suffix):
    assert load_rows("t", TaskSpec(path=str(folder / f"a{suffix}"))) == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read_from_elsewhere(memory, suffix):
    assert load_rows("t", TaskSpec(path=f"{memory}/a{suffix}")) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".csv.gz", ".json.zst", ".parquet", ".arrow"])
def test_files_of_the_web(server, suffix):
    url = f"{server}/a{suffix}"
    assert load_rows("t", TaskSpec(path=url)) == ROWS
    assert load_rows("t", TaskSpec(path=f"{url}?download=true")) == ROWS
    part = load_task("t", TaskSpec(path=url, split="train[:5]", validation="train[5:]"))
    assert [len(rows) for rows in part.values()] == [5, 15]


def test_an_arrow_file_of_the_file_format(tmp_path):
    (tmp_path / "a.arrow").write_bytes(arrow(False))
    assert load_rows("t", TaskSpec(path=str(tmp_path / "a.arrow"))) == ROWS


def test_capitals(tmp_path):
    (tmp_path / "A.CSV.GZ").write_bytes(content(".csv.gz"))
    assert load_rows("t", TaskSpec(path=str(tmp_path / "A.CSV.GZ"))) == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_files_are_named(tmp_path, suffix, damage):
    data = content(suffix)
    file = tmp_path / f"b{suffix}"
    file.write_bytes(data[: len(data) * 2 // 3] if damage == "cut" else b"\x00\xff\xfe nothing of the kind \xff\x00")
    with pytest.raises(MixalignError, match=rf"b{suffix}.* (cannot be read|is not valid JSON|is no CSV|has .* cells)"):
        read_file(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_bytes_are_no_rows(tmp_path, suffix):
    (tmp_path / f"b{suffix}").write_bytes(b"")
    with pytest.raises(MixalignError, match=r"Task `t` is empty: .*b\..* has no rows"):
        load_rows("t", TaskSpec(path=str(tmp_path / f"b{suffix}")))


@pytest.mark.parametrize("where", ["here", "memory"])
def test_patterns(folder, memory, where):
    base = memory if where == "memory" else str(folder)
    names = [table.place for table in read_files(f"{base}/a.jsonl*")]
    assert names == [f"{base}/a.jsonl{end}, line" for end in ("", ".gz", ".zst")] or where == "memory"
    assert len(names) == 3
    # rows of two files
    assert load_rows("t", TaskSpec(path=f"{base}/a.[cj]*", split="train[15:25]")) == ROWS[15:] + ROWS[:5]
    with pytest.raises(MixalignError, match=r"b\*\.jsonl matches no file"):
        read_files(f"{base}/b*.jsonl")


def test_a_pattern_descends(tmp_path):
    for n, name in enumerate(["b/1.jsonl", "a/2.jsonl", "a/c/0.jsonl"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": str(n)}) + "\n")
    rows = load_rows("t", TaskSpec(path=f"{tmp_path}/**/*.jsonl"))
    assert [row["completion"] for row in rows] == ["1", "2", "0"]  # in the order of the names


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].jsonl").write_bytes(content(".jsonl"))
    assert load_rows("t", TaskSpec(path=str(tmp_path / "a[1].jsonl"))) == ROWS


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "s3://bucket/a.jsonl",
            "s3://bucket/a.jsonl cannot be read: s3:// wants a package that is not there. Install it: ",
        ),
        ("gs://bucket/a.jsonl.gz", "pip install gcsfs."),
        ("nowhere://a.jsonl", "nowhere://a.jsonl cannot be read (ValueError: Protocol not known: nowhere"),
        ("memory://gone/a.jsonl", "memory://gone/a.jsonl does not exist. Check the address."),
        ("{server}/gone.jsonl?key=secret", "/gone.jsonl does not exist. Check the address."),
        ("http://127.0.0.1:9/a.jsonl?key=secret", "http://127.0.0.1:9/a.jsonl cannot be read (ClientConnector"),
        ("{server}/a.txt", "/a.txt has a suffix that is not known. Known: .jsonl"),
        ("{server}", "has a suffix that is not known"),
    ],
)
def test_what_lies_elsewhere_and_cannot_be_read(server, url, said):
    with pytest.raises(MixalignError, match=r"^Task `t`: ") as caught:
        load_rows("t", TaskSpec(path=url.format(server=server)))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_validation_may_lie_elsewhere(server, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "other", "completion": "x"}) + "\n")
    splits = load_task("t", TaskSpec(path=str(tmp_path / "a.jsonl"), validation=f"{server}/a.tsv.zst"))
    assert splits["validation"] == ROWS
