from attestream import rates
from attestream.rates import Buckets, TokenBucket


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_then_its_rate():
    clock = Clock()
    bucket = TokenBucket(0.5, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s == 0.5
    clock.now = 0.6
    assert [bucket.take(), bucket.take()] == [True, False]
    clock.now = 100
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_one_who_asks_too_often_costs_nobody_else():
    buckets = Buckets(1.0, 1, Clock())
    assert buckets.of("a").take()
    assert not buckets.of("a").take()
    assert buckets.of("b").take()


def test_ever_new_names_take_bounded_memory():
    buckets = Buckets(1.0, 1, Clock())
    for number in range(rates.MOST_KEYS + 50):
        buckets.of(str(number))
    assert len(buckets._buckets) == rates.MOST_KEYS
