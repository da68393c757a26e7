import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import PolicyError, UnsupportedError
from attestream.interop.expressions import compile_matching

EXPRESSIONS = [
    r"/usr/(s)?bin/.*",
    r"/foo|/usr/bin",
    r"(^b\w$)|([^/\d]{2,3}?)",
    r"[\w.-]+",
    r"(?i:/ABC)x",
    r"(?i)/abc[x-z]",
    r"\.so(\.\d+)*$",
    r"[^\s]+é",
    r"(?P<n>x)y",
    r"^/tmp/[^/]+\Z",
    r"\bfoo\b",
    r"(?s:a.b)|(a.b)",
    r"(?x) a  b # a comment",
    r"\W+|\D\S",
    r"[]^-]+",
    r"",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(text=st.text("/abfouxyzXé.01- \t^]", max_size=8) | st.sampled_from(["/usr/bin/a", "/tmp/x", "/ABCx", "x.so.1.2"]))
def test_translated_expression_matches_what_python_matches(expression, text):
    python = re.compile(expression)

    assert bool(compile_matching(expression, whole=True).fullmatch(text.encode())) == bool(python.fullmatch(text))
    assert bool(compile_matching(expression, whole=False).fullmatch(text.encode())) == bool(python.match(text))


@pytest.mark.parametrize("expression", [r"(?=a)", r"(?<!a)b", r"(a)\1", r"a{1001}", r"a++", r"(?>a)", r"(a)(?(1)b|c)"])
def test_what_re2_can_not_express_is_refused(expression):
    with pytest.raises(UnsupportedError):
        compile_matching(expression, whole=True)


@pytest.mark.parametrize("expression", ["(", "*a", "[", "a(?i)b", "\\"])
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(PolicyError):
        compile_matching(expression, whole=True)


def test_nested_expression_is_refused_or_taken_but_never_fatal():
    for text in ("(" * 5000 + ")" * 5000, "(a+" * 60 + ")" * 60):
        try:
            compile_matching(text, whole=True)
        except (PolicyError, UnsupportedError):
            continue


def test_exponential_expression_takes_linear_time():
    """Catastrophic backtracking: seconds per path in the incumbent, for each entry of each agent."""
    assert compile_matching(r"(a|a)*b|(a+)+$", whole=True).fullmatch(b"a" * 4000 + b"!") is None
