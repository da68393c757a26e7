import json

import pytest

from attestream.appraisal.layers import layer_names, merge_layers
from attestream.appraisal.policy import compile_policy
from attestream.errors import PolicyError

H1, H2, H3 = ("sha256:" + byte * 32 for byte in ("11", "22", "33"))


def document(**parts):
    return json.dumps({"format": "attestream-policy/1", "bank": "sha256", **parts}).encode()


BASE = document(
    description="base",
    pcrs={"0": ["00" * 32]},
    runtime={
        "digests": {"/a": [H1], "/b": [H1]},
        "excludes": ["/tmp/.*"],
        "deny": {"paths": ["/bin/nc"]},
        "violations": "fail",
    },
)
TEAM = document(runtime={"digests": {"/a": [H2], "/c": [H3]}}, pcrs={"0": ["11" * 32]})
TOP = document(layers=["base@1", "team@2.0"], runtime={"digests": {"/a": [H3]}}, recovery="automatic")
LAYERS = {"base@1": BASE, "team@2.0": TEAM}


def test_tables_and_lists_are_joined():
    merged = json.loads(merge_layers(TOP, LAYERS))

    assert sorted(merged["runtime"]["digests"]["/a"]) == [H1, H2, H3]
    assert set(merged["runtime"]["digests"]) == {"/a", "/b", "/c"}
    assert sorted(merged["pcrs"]["0"]) == ["00" * 32, "11" * 32]
    assert (merged["runtime"]["violations"], merged["recovery"]) == ("fail", "automatic")
    assert merged["runtime"]["deny"] == {"paths": ["/bin/nc"]}
    assert "layers" not in merged


def test_names_are_what_has_to_be_fetched():
    assert layer_names(TOP) == ("base@1", "team@2.0")
    assert layer_names(BASE) == ()
    assert merge_layers(BASE, {}) == BASE


def test_compiled_policy_depends_on_its_layers():
    one = compile_policy(TOP, LAYERS)
    other = compile_policy(TOP, {**LAYERS, "team@2.0": document(runtime={"digests": {"/x": [H1]}})})

    assert one.digest != other.digest
    assert one.digest == compile_policy(TOP, dict(reversed(LAYERS.items()))).digest
    assert one.selection == {"sha256": [0, 10]}


@pytest.mark.parametrize(
    ("top", "layers", "message"),
    [
        (TOP, {}, "base@1 was not found"),
        (document(layers=["base"]), {}, "layers[0]"),
        (document(layers="base@1"), {}, "layers"),
        (document(layers=["base@1", "base@1"]), {}, "twice"),
        (document(layers=["a@1"] * 40), {}, "layers"),
        (document(layers=["base@1"]), {"base@1": TOP}, "layer base@1: layers"),
        (document(layers=["base@1"]), {"base@1": b"{"}, "layer base@1: the document"),
        (document(layers=["base@1"]), {"base@1": document(bank="sha384")}, "layer base@1: bank"),
        (document(layers=["base@1"], runtime={"digests": []}), {"base@1": BASE}, "runtime.digests"),
    ],
)
def test_layers_that_do_not_fit_are_refused(top, layers, message):
    with pytest.raises(PolicyError) as caught:
        compile_policy(top, layers)

    assert message in caught.value.message


def test_what_is_not_valid_in_a_layer_is_refused():
    with pytest.raises(PolicyError, match="excludes"):
        compile_policy(document(layers=["x@1"]), {"x@1": document(runtime={"digests": {}, "excludes": ["("]})})
