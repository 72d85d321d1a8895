import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from fraudops.errors import BundleError
from fraudops.model.scorer import open_scorer, sigmoid


def write(folder: Path, **parameters: object) -> Path:
    (folder / "scorer.json").write_text(json.dumps(parameters))
    return folder


def test_linear_scorer_is_the_sigmoid_of_a_dot_product(tmp_path: Path) -> None:
    scorer = open_scorer(
        write(tmp_path, kind="linear", coefficients=[2.0, -1.0, 0.5], intercept=-0.25)
    )
    expected = 1 / (1 + math.exp(-(2.0 * 0.1 - 1.0 * 0.2 + 0.5 * 0.3 - 0.25)))
    assert (scorer.kind, scorer.features) == ("linear", 3)
    assert scorer.score([0.1, 0.2, 0.3]) == pytest.approx(expected, abs=1e-15)
    assert scorer.score_many(np.array([[0.1, 0.2, 0.3]])) == pytest.approx([expected], abs=1e-15)


def test_linear_scorer_scores_one_row_as_it_scores_many(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    scorer = open_scorer(
        write(tmp_path, kind="linear", coefficients=random.normal(size=29).tolist(), intercept=0.3)
    )
    rows = random.normal(size=(500, 29)) * 3
    assert (
        np.abs(scorer.score_many(rows) - [scorer.score(row) for row in rows.tolist()]).max() < 1e-14
    )


@pytest.mark.parametrize("value", [1e308, -1e308, 800.0, -800.0])
def test_extreme_scores_saturate_without_overflow(tmp_path: Path, value: float) -> None:
    scorer = open_scorer(write(tmp_path, kind="linear", coefficients=[1.0], intercept=0.0))
    expected = 1.0 if value > 0 else 0.0
    assert scorer.score([value]) == pytest.approx(expected)
    assert scorer.score_many(np.array([[value]])) == pytest.approx([expected])


def test_sigmoid_is_symmetric_and_exact_in_the_middle() -> None:
    values = np.linspace(-40, 40, 81)
    assert sigmoid(np.zeros(1))[0] == 0.5
    assert np.abs(sigmoid(values) + sigmoid(-values) - 1).max() < 1e-15


def test_a_batch_of_no_rows_has_no_scores(tmp_path: Path) -> None:
    scorer = open_scorer(write(tmp_path, kind="linear", coefficients=[1.0, 1.0], intercept=0.0))
    assert scorer.score_many(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"kind":"tree"}',
        '{"kind":"linear","coefficients":["a"],"intercept":0}',
        '{"kind":"linear","coefficients":[1],"intercept":0,"more":1}',
        '{"kind":"onnx","slope":1,"intercept":0}',
    ],
)
def test_a_scorer_that_cannot_be_read_is_a_bundle_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "scorer.json").write_text(text)
    with pytest.raises(BundleError, match="cannot be read"):
        open_scorer(tmp_path)


@pytest.mark.parametrize("model", [b"", b"not a model"])
def test_an_invalid_onnx_file_is_a_bundle_error(tmp_path: Path, model: bytes) -> None:
    write(tmp_path, kind="onnx", slope=1.0, intercept=0.0)
    (tmp_path / "scorer.onnx").write_bytes(model)
    with pytest.raises(BundleError, match=r"scorer\.onnx cannot be opened"):
        open_scorer(tmp_path)


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_an_onnx_model_of_either_width_scores_one_row_as_it_scores_many(
    tmp_path: Path, kind: str
) -> None:
    width = onnx.TensorProto.DataType.Value(kind)
    weights = onnx.helper.make_tensor("weights", width, [3, 1], [0.5, -1.0, 2.0])
    infos = [
        onnx.helper.make_tensor_value_info(name, width, [None, size])
        for name, size in (("rows", 3), ("raw", 1))
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["rows", "weights"], ["raw"])],
        "dot",
        infos[:1],
        infos[1:],
        [weights],
    )
    opset = onnx.helper.make_opsetid("", 13)
    (tmp_path / "scorer.onnx").write_bytes(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    )
    scorer = open_scorer(write(tmp_path, kind="onnx", slope=2.0, intercept=-0.5))
    rows = np.random.default_rng(7).normal(size=(9, 3))
    expected = sigmoid(2.0 * (rows @ [0.5, -1.0, 2.0]) - 0.5)
    assert np.abs(scorer.score_many(rows) - expected).max() < 1e-6
    for size in (1, 4, 9, 4):
        assert scorer.score_few([tuple(row) for row in rows[:size].tolist()]) == pytest.approx(
            expected[:size], abs=1e-6
        )


def test_a_linear_scorer_imports_nothing_but_numpy_and_msgspec(tmp_path: Path) -> None:
    write(tmp_path, kind="linear", coefficients=[1.0], intercept=0.0)
    program = (
        "import sys; from pathlib import Path; import fraudops.model.verification;"
        "from fraudops.model.scorer import open_scorer;"
        f"open_scorer(Path({str(tmp_path)!r})).score([1.0]);"
        "heavy = 'onnxruntime sklearn scipy pandas pyarrow mlflow skops matplotlib'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("rows", [1, 300])
def test_an_onnx_run_that_fails_raises_and_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rows: int
) -> None:
    """onnxruntime would write a line with a value of the row to standard error for each run."""
    parts = onnx.helper
    nodes = [
        parts.make_node("Cast", ["row"], ["index"], to=onnx.TensorProto.INT64),
        parts.make_node("Gather", ["table", "index"], ["raw"]),
    ]
    kind = onnx.TensorProto.FLOAT
    source, target = (parts.make_tensor_value_info(x, kind, [None, 1]) for x in ("row", "raw"))
    table = parts.make_tensor("table", kind, [2], [0.0, 1.0])
    graph = parts.make_graph(nodes, "lookup", [source], [target], [table])
    model = parts.make_model(graph, opset_imports=[parts.make_opsetid("", 15)], ir_version=8)
    (tmp_path / "scorer.onnx").write_bytes(model.SerializeToString())
    scorer = open_scorer(write(tmp_path, kind="onnx", slope=1.0, intercept=0.0))
    out_of_bounds = 4929.0
    with pytest.raises(Exception, match="out of data bounds"):
        scorer.score_many(np.full((rows, 1), out_of_bounds))
    with pytest.raises(Exception, match="out of data bounds"):
        scorer.score([out_of_bounds])
    assert capfd.readouterr() == ("", "")
