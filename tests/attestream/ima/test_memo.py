from attestream.ima.memo import MAX_RECORD_BYTES, Cleared, Generations


def test_large_keys_are_not_remembered():
    memo, cleared = Generations(4), Cleared(4)

    memo.add(b"k" * (MAX_RECORD_BYTES + 1), 1)
    cleared.add("a", b"k" * (MAX_RECORD_BYTES + 1), b"v")

    assert (len(memo), len(cleared)) == (0, 0)


def test_what_is_in_use_stays_and_what_is_not_goes():
    memo = Generations(4)
    memo.add(b"hot", 7)

    for number in range(100):
        memo.add(str(number).encode(), number)
        assert memo.get(b"hot") == 7

    assert memo.get(b"1") is None
    assert len(memo) <= 8


def test_one_bound_holds_for_all_policies_together():
    cleared = Cleared(4)
    for number in range(100):
        cleared.add(f"policy-{number % 3}", str(number).encode(), b"v")

    assert len(cleared) <= 8
    assert cleared.known("policy-0").get(b"99") == b"v"


def test_a_record_cleared_by_one_policy_is_not_cleared_by_another():
    cleared = Cleared(4)
    cleared.add("one", b"record", b"v")

    assert cleared.known("other").get(b"record") is None
    assert cleared.recall("other", b"record") is None


def test_an_older_record_is_recalled_and_young_again():
    cleared = Cleared(2)
    for key in (b"a", b"b", b"c"):
        cleared.add("p", key, key)
    assert cleared.known("p").get(b"a") is None

    assert cleared.recall("p", b"a") == b"a"
    assert cleared.known("p").get(b"a") == b"a"
