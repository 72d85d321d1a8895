"""`fraudops score`: formats, sizes, bad rows, and refused files."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.support.commands import Caller
from tests.support.scored import Scene

ADDED = ["fraud_probability", "prediction", "model_version", "threshold"]
SECRET = "4929.12345"
SIZES = range(10, 150, 7)


def read(path: Path) -> pa.Table:
    return (
        pyarrow.parquet.read_table(path)
        if path.suffix == ".parquet"
        else pyarrow.csv.read_csv(path)
    )


def test_every_input_format_gives_the_same_scores_in_every_output_format(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    source = scene.csv(tmp_path / "in.csv", 600)
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(source.read_bytes()))
    scene.parquet(tmp_path / "in.parquet", 600)
    columns = []
    for name in ("in.csv", "in.csv.gz", "in.parquet"):
        for suffix in ("csv", "parquet"):
            out = tmp_path / f"{name}.out.{suffix}"
            result = score(
                tmp_path / name, "--out", out, "--chunk-rows", "170", "--state", scene.state.root
            )
            assert result.returncode == 0, result.stderr
            assert not Path(f"{out}.parts").exists()
            table = read(out)
            assert table.column_names == ["transaction_id", *ADDED]
            columns.append(table.to_pydict())
    assert [each["fraud_probability"] for each in columns] == [columns[0]["fraud_probability"]] * 6
    ids = [f"t,{index}" for index in range(600)]
    assert [each["transaction_id"] for each in columns] == [ids] * 6


def test_requested_columns_are_kept_with_their_types(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    for source in (
        scene.parquet(tmp_path / "in.parquet", 120),
        scene.csv(tmp_path / "in.csv", 120),
    ):
        result = score(
            source,
            "--out",
            tmp_path / "out.parquet",
            "--keep",
            "note",
            "--keep",
            "Amount",
            "--state",
            scene.state.root,
        )
        assert result.returncode == 0, result.stderr
        table = read(tmp_path / "out.parquet")
        assert table.column_names == ["transaction_id", "note", "Amount", *ADDED]
        assert table.column("Amount").to_pylist() == scene.data.amount[:120].tolist()


def test_an_empty_file_gives_an_empty_output(scene: Scene, score: Caller, tmp_path: Path) -> None:
    for source in (scene.csv(tmp_path / "in.csv", 0), scene.parquet(tmp_path / "in.parquet", 0)):
        for suffix in ("csv", "parquet"):
            result = score(
                source, "--out", tmp_path / f"{source.name}.{suffix}", "--state", scene.state.root
            )
            assert result.returncode == 0, result.stderr
            assert read(tmp_path / f"{source.name}.{suffix}").num_rows == 0


def with_bad_rows(lines: list[str]) -> list[str]:
    """Insert ten bad rows after line 40; the good rows stay as they are."""
    first = lines[1].split(",")
    bad = [
        ",".join([SECRET + "x", *first[1:]]),
        ",".join(["", *first[1:]]),
        ",".join([*first[:2], "NaN", *first[3:]]),
        ",".join(["1e999", *first[1:]]),
        ",".join(["1", "-inf", *first[2:]]),
        ",".join([SECRET, *first[1:]]),
        ",".join(first[:5]) + "\n",
        ",".join([*first[:-1], "x,x\n"]),
        ",".join(["1_0", *first[1:]]),
        ",".join(["0x10", *first[1:]]),
    ]
    return [*lines[:40], "\n", *bad, *lines[40:]]


def test_bad_rows_of_a_csv_are_written_with_line_column_reason_and_content(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    lines = scene.lines(200)
    (tmp_path / "bad.csv").write_text("".join(with_bad_rows(lines)))
    result = score(
        tmp_path / "bad.csv",
        "--out",
        tmp_path / "out.csv",
        "--bad-rows",
        tmp_path / "aside.csv",
        "--chunk-rows",
        "30",
        "--json",
        "--state",
        scene.state.root,
    )
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert (counts["scored"], counts["set_aside"]) == (200, 10)
    aside = read(tmp_path / "aside.csv").to_pylist()
    assert [row["line"] for row in aside] == list(range(42, 52))
    assert [row["column"] for row in aside] == [
        "V1",
        "V1",
        "V3",
        "V1",
        "V2",
        "V1",
        "",
        "",
        "V1",
        "V1",
    ]
    words = [
        "text where a number",
        "missing",
        "missing",
        "infinite",
        "infinite",
        "outside the schema's range",
        "5 values",
        "32 values",
        "text",
        "text",
    ]
    for row, word in zip(aside, words, strict=True):
        assert word in row["reason"]
        assert SECRET not in row["reason"]
    assert aside[0]["content"].startswith(SECRET + "x,")
    (tmp_path / "good.csv").write_text("".join(lines))
    assert (
        score(
            tmp_path / "good.csv", "--out", tmp_path / "good.out.csv", "--state", scene.state.root
        ).returncode
        == 0
    )
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "good.out.csv").read_bytes(), (
        "a row's score does not depend on its neighbours"
    )


def test_bad_rows_of_a_parquet_file_are_written_as_well(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    table = scene.table(300)
    for column, row, value in (
        ("V2", 7, None),
        ("V3", 150, float("nan")),
        ("Amount", 299, -1.0),
        ("V28", 299, float("inf")),
    ):
        values = table.column(column).to_pylist()
        values[row] = value
        table = table.set_column(
            table.schema.get_field_index(column), column, pa.array(values, pa.float64())
        )
    pyarrow.parquet.write_table(table, tmp_path / "bad.parquet", row_group_size=80)
    result = score(
        tmp_path / "bad.parquet",
        "--out",
        tmp_path / "out.parquet",
        "--bad-rows",
        tmp_path / "aside.csv",
        "--chunk-rows",
        "70",
        "--state",
        scene.state.root,
    )
    assert result.returncode == 0, result.stderr
    assert "297 rows scored" in result.stdout
    aside = read(tmp_path / "aside.csv").to_pylist()
    assert [(row["row"], row["column"]) for row in aside] == [(8, "V2"), (151, "V3"), (300, "V28")]
    assert "1 more" in aside[2]["reason"]
    assert json.loads(aside[2]["content"])["transaction_id"] == "t,299"
    kept = read(tmp_path / "out.parquet").column("transaction_id").to_pylist()
    assert kept == [f"t,{index}" for index in range(299) if index not in (7, 150)]


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_bad_rows_of_a_file_of_features_alone_are_written_as_well(
    scene: Scene, score: Caller, tmp_path: Path, source: str, out: str
) -> None:
    """Without an id and without `--keep` no column is kept, yet the good rows are scored."""
    table = scene.table(300).select(list(scene.data.schema.names))
    amounts = table.column("Amount").to_pylist()
    amounts[7] = -1.0
    place = table.schema.get_field_index("Amount")
    table = table.set_column(place, "Amount", pa.array(amounts, pa.float64()))
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "in.csv")
    run = (tmp_path / source, "--state", scene.state.root)
    refused = score(*run, "--out", tmp_path / "refused.csv")
    assert refused.returncode == 64
    assert "'Amount'" in refused.stderr
    bad, pieces = ("--bad-rows", tmp_path / "bad.csv"), ("--chunk-rows", "70")
    scored = score(*run, "--out", tmp_path / out, *bad, *pieces)
    assert scored.returncode == 0, scored.stderr
    assert read(tmp_path / out).num_rows == 299
    assert read(tmp_path / out).column_names == ADDED
    assert [row["column"] for row in read(tmp_path / "bad.csv").to_pylist()] == ["Amount"]


def test_one_bad_row_among_many_is_found_at_any_position(
    scene: Scene, score: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A chunk with a bad row is halved again and again, down to a few lines that are read one by
    # one. Small chunks here, so that 300 rows are enough for several halvings.
    monkeypatch.setattr("fraudops.batch.csv_source.WALKED_BYTES", 2000)
    lines = scene.lines(300)
    for place in (1, 77, 150, 299):
        (tmp_path / "bad.csv").write_text(
            "".join([*lines[:place], "\n", with_bad_rows(lines)[41], *lines[place:]])
        )
        out, aside = tmp_path / f"{place}.parquet", tmp_path / f"{place}.csv"
        result = score(
            tmp_path / "bad.csv", "--out", out, "--bad-rows", aside, "--state", scene.state.root
        )
        assert result.returncode == 0, result.stderr
        assert [row["line"] for row in read(aside).to_pylist()] == [place + 2]
        assert read(out).column("transaction_id").to_pylist() == [
            f"t,{index}" for index in range(300)
        ]


@pytest.mark.parametrize("number", range(10))
def test_a_bad_row_without_bad_rows_file_ends_the_run_without_quoting_its_value(
    scene: Scene, score: Caller, tmp_path: Path, number: int
) -> None:
    lines = scene.lines(100)
    bad = with_bad_rows(lines)[41 + number]
    (tmp_path / "bad.csv").write_text("".join([*lines[:60], bad, *lines[60:]]))
    result = score(
        tmp_path / "bad.csv",
        "--out",
        tmp_path / "out.csv",
        "--chunk-rows",
        "20",
        "--state",
        scene.state.root,
    )
    assert result.returncode == 64
    assert "bad.csv: line 61" in result.stderr
    assert "--bad-rows FILE" in result.stderr
    assert SECRET not in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_text_that_is_not_utf8_is_refused(scene: Scene, score: Caller, tmp_path: Path) -> None:
    lines = scene.lines(20)
    (tmp_path / "in.csv").write_bytes("".join(lines).encode().replace(b"t,7", b"t\xff7"))
    result = score(tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--state", scene.state.root)
    assert result.returncode == 64
    assert "line 9, column 'transaction_id': the text is not UTF-8" in result.stderr


def test_a_row_with_a_quoted_line_break_is_read_whole_or_refused(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("".join(scene.lines(60)).replace('"t,', '"t\n'))
    result = score(
        tmp_path / "in.csv", "--out", tmp_path / "whole.parquet", "--state", scene.state.root
    )
    assert result.returncode == 0, result.stderr
    assert read(tmp_path / "whole.parquet").column("transaction_id").to_pylist() == [
        f"t\n{index}" for index in range(60)
    ]
    results = [
        score(
            tmp_path / "in.csv",
            "--out",
            tmp_path / f"{rows}.parquet",
            "--chunk-rows",
            str(rows),
            "--state",
            scene.state.root,
        )
        for rows in SIZES
    ]
    assert {result.returncode for result in results} == {0, 64}
    for rows, result in zip(SIZES, results, strict=True):
        if result.returncode == 0:
            assert read(tmp_path / f"{rows}.parquet").equals(read(tmp_path / "whole.parquet"))
        else:
            assert "contains a line break" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("1,2,3\n4,5,6\n", "there is no header"),
        ("a;b\n1;2\n", "separated by semicolons"),
        ("a,b\n1,2\n", "names none of the schema's columns"),
        ("V1,V2\n1,2\n", "the columns 'V3', 'V4', 'V5', 'V6', 'V7' and 22 more are missing"),
        ("v1,V2\n", "'v1' is not 'V1'"),
        ("PK\x03\x04", "a zip or Excel file"),
        ("V1\0", "binary or UTF-16"),
        ("PAR1 and no more", "damaged or cut off"),
    ],
)
def test_a_file_that_lacks_columns_is_refused(
    scene: Scene, score: Caller, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    result = score(tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--state", scene.state.root)
    assert result.returncode == 64
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.csv"], "absent.csv: cannot be read (No such file or directory)"),
        ([], "name it with --out"),
        (["--out", "out.csv"], "FILE is missing"),
        (["in.csv", "--out", "out.xlsx"], "let it end in .csv or .parquet"),
        (["in.csv", "--out", "in.csv"], "must be different files"),
        (["in.csv", "--bad-rows", "bad.parquet"], "use a name in .csv"),
        (["in.csv", "--keep", "colour"], "there is no column 'colour' to keep"),
        (["in.csv", "--shard", "3/3"], "I from 0 to N-1"),
        (["in.csv", "--shards", "3"], "here run --shard 0/3 to --shard 2/3"),
        (["--merge", "--out", "out.csv"], "there is no run to join"),
        (["in.csv", "--state", "/absent"], "no version serves yet"),
        (["in.csv", "--shard", "0/2", "--shards", "2"], "give --shard or --shards, not both"),
    ],
)
def test_wrong_usage_ends_with_64(
    scene: Scene,
    score: Caller,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    scene.csv(tmp_path / "in.csv", 20)
    monkeypatch.chdir(tmp_path)
    result = score(
        *arguments, *([] if "--state" in arguments else ["--state", str(scene.state.root)])
    )
    assert result.returncode == 64
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_says_that_nothing_is_audited(score: Caller) -> None:
    assert "not audited" in score("--help").stdout
