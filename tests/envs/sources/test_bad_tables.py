"""Bad tables and mappings: one line that names file, row or entry, and what was expected."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.sources import open_source
from envs.sources.keys import KEYS, json_schema
from envs.sources.mapping import Mapping
from envs.types import TraceError

from .conftest import write_table

MAPPING = {"episode": "id", "observation": ["x", "y"], "action": "a", "reward": "r"}
HEAD, ROWS = "id,x,y,a,r\n", "1,0.5,1.5,0,1\n1,0.5,1.5,1,1\n1,0.5,1.5,,\n"


@pytest.fixture
def refused(tmp_path):
    """Reading these bytes as a file of this name fails with these words, in one line."""

    def call(name, data, words, mapping=None, **options):
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        kind = name.split(".")[1]
        with pytest.raises(TraceError, match=words) as caught:
            list(open_source(kind, str(path), mapping=MAPPING | (mapping or {}), **options))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    return call


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "is not readable as CSV: Empty CSV file"),
        (HEAD, "holds no rows"),
        (HEAD + ROWS + "1,2\n", "line 5: Expected 5 columns, got 2"),
        (HEAD + ROWS + "1,2,3,4,5,6\n", "line 5: Expected 5 columns, got 6"),
        ((HEAD + ROWS).encode("utf-16"), "UTF-16 text; say .*encoding=utf-16"),
        (
            (HEAD + ROWS).replace("0.5", "é").encode("latin-1"),
            "not UTF-8; save it as UTF-8, or say",
        ),
        ((HEAD + ROWS).replace(",", ";"), "one column called 'id;x;y;a;r'; say .*delimiter=';'"),
        (HEAD + ROWS.replace("0.5", '"0,5"'), "row 0: column x holds text .'0,5'..*decimal=','"),
        (
            HEAD + ROWS * 150_000 + "2,north,0,0,0\n",
            "line 450002.*double: invalid value 'north'.*one kind",
        ),
        (
            HEAD + ROWS.replace("1\n", "one\n"),
            "row 0: column r holds text .'one'., expected numbers; give",
        ),
        (
            HEAD + ROWS * 10 + "2,north,0,0,0\n",
            "row 30: column x holds text .'north'., expected numbers",
        ),
        (HEAD + ROWS * 150_000 + '2,"0,5",0,0,0\n', "decimal comma, say .*decimal=','"),
        (HEAD + '1,"' + "z" * (9 << 20), "longer than 4 MiB, or a quote is never closed"),
        (HEAD.replace("y", "x") + ROWS, "has no column y; it has id, x, x, a, r"),
        (HEAD.replace("y", "x", 1) + ROWS, "has no column y"),
        (b"PK\x03\x04" + b"\0" * 50, "is an archive; unpack it"),
        (b"\x1f\x8b\x08" + b"\0" * 50, "is compressed; let its name end in .gz"),
        (b"PAR1" + b"\0" * 50, "is Parquet; say source.name=parquet"),
        (HEAD + ROWS.replace("1,0.5", ",0.5"), "row 0: column id is empty"),
    ],
)
def test_bad_csv(refused, data, words):
    refused("log.csv", data, words)


def test_csv_with_a_mark_other_signs_and_other_encodings_is_read(tmp_path):
    path = tmp_path / "log.csv"
    plain = [
        *open_source(
            "csv",
            write_table(
                path, {"id": [1, 1], "x": [0.5, 1], "y": [1, 2], "a": [0, None], "r": [1.5, None]}
            ),
            mapping=MAPPING,
        )
    ]
    text = path.read_text()
    european = text.replace(",", ";").replace(".", ",")
    for data, options in (
        (b"\xef\xbb\xbf" + text.encode(), {}),
        (text.replace("\n", "\r\n").encode(), {}),
        (text.encode("utf-16"), {"encoding": "utf-16"}),
        (european.encode(), {"delimiter": ";", "decimal": ","}),
    ):
        path.write_bytes(data)
        (trace,) = open_source("csv", str(path), mapping=MAPPING, **options)
        assert (trace.observations == plain[0].observations).all()
        assert (trace.rewards, trace.actions) == (plain[0].rewards, plain[0].actions)
    for options, words in (
        ({"delimiter": "::"}, "one character"),
        ({"encoding": "klingon"}, "unknown"),
    ):
        with pytest.raises(TraceError, match=words):
            open_source("csv", str(path), mapping=MAPPING, **options).schema()


LINE = '{"id": 1, "x": 0.5, "y": 1, "a": 0, "r": 1}\n'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "is not readable as JSON lines: Empty JSON stream"),
        (LINE + '{"id": 1', "JSON parse error: .*row 1"),
        (LINE + LINE.replace("0.5", '"far"'), "changed from number to string in row 1"),
        (LINE + "[1, 2]\n", "changed from object to array in row 1"),
        (LINE.replace("0.5", "[" * 30_000 + "]" * 30_000), "row 0 is nested deeper than 64"),
        (LINE + '{"id":' * 30_000 + "1" + "}" * 30_000, "row 1 is nested deeper than 64"),
        (LINE.replace("0.5", "[[1, 2], [3, 4]]"), "x, y hold lists|holds lists"),
        (LINE.replace('"x"', '"xx"'), r"has no column x \(did you mean xx\?\)"),
        (LINE.encode("utf-16"), "is UTF-16 text"),
        (LINE.replace("0.5", "1" * (9 << 20)), "is longer than 4 MiB"),
        (
            LINE.replace('"id": 1', '"id": "\\u0000"').encode().replace(b"\\u0000", b"\xff"),
            "not UTF-8",
        ),
    ],
)
def test_bad_json_lines(refused, data, words):
    refused("log.jsonl", data, words, {"final": "repeat"})


def test_json_lines_with_a_mark_are_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    (trace,) = open_source("jsonl", str(path), mapping=MAPPING | {"final": "repeat"})
    assert trace.observations.tolist() == [[0.5, 1]] * 2


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (
            {"x": pa.array(["1,5", "2,5"])},
            "row 0: column x holds text .'1,5'., expected numbers; say types",
        ),
        ({"x": pa.array([b"a", b"b"])}, "column x holds binary"),
        ({"x": pa.array([{"u": 1}, {"u": 2}])}, r"has no column x; it has id, x.u, y"),
        ({"x": pa.array([[["a"]], [["b"]]])}, "column x holds list"),
        ({"x": pa.array([[1.0], [2.0]])}, "observation: columns x, y hold lists; name one"),
        ({"a": pa.array([0.5, 0.25]), "id": pa.array([[1], [1]])}, "column id holds list"),
        ({"a": pa.array([1, 10**18])}, "missing; add a last row"),
    ],
)
def test_bad_columns_of_parquet(tmp_path, column, words):
    table = {"id": [1, 1], "x": [0.0, 1.0], "y": [0.0, 1.0], "a": [0, 1], "r": [0.0, 0.0]}
    path = write_table(tmp_path / "log.parquet", table | column)
    with pytest.raises(TraceError, match=words):
        list(open_source("parquet", path, mapping=MAPPING))


def test_types_that_differ_between_files_name_file_and_column(tmp_path):
    good = {"id": [1, 1], "x": [0.0, 1.0], "y": [0.0, 1.0], "a": [0, None], "r": [0.0, None]}
    write_table(tmp_path / "1.parquet", good)
    write_table(tmp_path / "2.parquet", good | {"id": [2, 2], "y": ["low", "high"]})
    words = r"2.parquet: column y holds string \(text\), but number in .*1.parquet"
    with pytest.raises(TraceError, match=words):
        open_source("parquet", str(tmp_path / "*"), mapping=MAPPING).schema()


def test_a_column_twice_is_refused_if_it_is_used(tmp_path):
    arrays = [pa.array([1, 1]), pa.array([0.0, 1.0]), pa.array([0.0, 1.0]), pa.array([0, None])]
    twice = lambda names: pq.write_table(
        pa.Table.from_arrays([*arrays, pa.array([0.0, None]), pa.array([5, 5])], names),
        tmp_path / "log.parquet",
    )
    twice(["id", "x", "y", "a", "r", "x"])
    with pytest.raises(TraceError, match="log.parquet: has 2 columns called x"):
        list(open_source("parquet", str(tmp_path / "log.parquet"), mapping=MAPPING))
    twice(["id", "x", "y", "a", "r", "z"])
    assert len(list(open_source("parquet", str(tmp_path / "log.parquet"), mapping=MAPPING))) == 1


def test_huge_text_that_repeats_takes_its_memory_once(tmp_path):
    """A Parquet file of some kilobytes whose text would be 2 GB."""
    rows, word = 20_000, "z" * 100_000
    table = pa.table(
        {
            "id": np.repeat(np.arange(rows // 2), 2),
            "x": np.zeros(rows),
            "a": pa.array([0, None] * (rows // 2)),
            "r": pa.array([0.0, None] * (rows // 2)),
            "s": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([word])),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", store_schema=False)
    assert (tmp_path / "log.parquet").stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    mapping = MAPPING | {"observation": ["x"], "session": "s"}
    trace = next(iter(open_source("parquet", str(tmp_path / "log.parquet"), mapping=mapping)))
    assert trace.session == word and pa.total_allocated_bytes() - before < 64 << 20


# --- mappings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewrad": "r"}, r"does not know rewrad \(did you mean reward\?\); its keys are"),
        ({"reward": None}, "lacks reward"),
        ({"episode": 7}, r"episode is 7 \(not text; quote it\?\), expected the name of a column"),
        ({"episode": ""}, "episode is empty"),
        ({"action": []}, "action is an empty list"),
        ({"action": {"x": "a"}}, "action is a dict of 1, expected the name of a column or a list"),
        ({"observation": {"o": [1]}}, r"observation.o\[0\] is 1"),
        (
            {"final": "repeats"},
            r"final is 'repeats', expected one of repeat \(did you mean repeat\?\)",
        ),
        ({"types": {"x": "numbr"}}, r"types.x is 'numbr', .*did you mean number"),
        ({"types": {"z": "number"}}, "types names z, which is no column of observation or action"),
        ({"types": {"x": "identifier", "y": "identifier"}}, "nothing but identifiers"),
        ({"categories": {"x": []}}, "categories.x is an empty list"),
        ({"categories": {"x": ["a", "a"]}}, "name a value twice"),
        ({"next_observation": ["x"]}, "must name a column for each"),
        ({"observation_space": {"type": "Bx"}}, "does not describe a space"),
        ({"action": ["x", "a"], "types": {"a": "category"}}, "one of type category"),
        ({"terminated": "ended"}, r"has no column ended"),
    ],
)
def test_bad_mappings(tmp_path, change, words):
    table = {"id": [1, 1], "x": [0.0, 1.0], "y": [0.0, 1.0], "a": [0, None], "r": [0.0, None]}
    path = write_table(tmp_path / "log.parquet", table)
    with pytest.raises(TraceError, match=words) as caught:
        list(open_source("parquet", path, mapping=MAPPING | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "mapping lacks episode"),
        ("episode: é".encode("latin-1"), "byte 9 is not UTF-8; save the mapping as UTF-8"),
        ("episode: id".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"episode: [", "is not readable as YAML"),
        (b"[" * 50_000, "is nested too deeply"),
        (b"- " * 50_000, "is nested too deeply"),
        (b"{a: " * 50_000, "is nested too deeply"),
        (b"episode: id\nobservation: " + b"a: \n  " * 20_000, "is not readable as YAML|nested"),
        (b"- a", "mapping is a list of 1"),
        (b"episode: id\nobservation: &a {b: *a}\naction: a\nreward: r", "nested deeper"),
        (b"#" * (2 << 20), "is larger than"),
        (b"episode: 2026-99-99\n", "month must be"),
        (b"!!python/object/apply:os.system [x]", "is not readable as YAML"),
    ],
)
def test_bad_mapping_files(tmp_path, data, words):
    path = tmp_path / "m.yaml"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=words) as caught:
        Mapping.read(str(path))
    assert "\n" not in str(caught.value)


def test_a_mapping_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbfepisode: id\nobservation: x\naction: a\nreward: r\n")
    assert Mapping.read(str(path)).observation == ["x"]


def test_the_published_schema_is_that_of_the_program(request):
    published = request.config.rootpath / "docs" / "mapping.schema.json"
    advice = "python -m envs.sources.keys > docs/mapping.schema.json writes it anew"
    assert json.loads(published.read_text()) == json_schema(), advice
    assert list(json_schema()["properties"]) == list(KEYS) == [*Mapping.__dataclass_fields__]
