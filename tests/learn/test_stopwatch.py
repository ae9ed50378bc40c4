from muster.learn.stopwatch import Stopwatch, watched


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_only_the_innermost_of_nested_stretches_counts():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now = 5.0
    with watch.at("outer"):
        clock.now += 1.0
        with watch.at("inner"):
            clock.now += 10.0
        clock.now += 2.0
        with watch.at("inner"):
            clock.now += 20.0
    clock.now += 100.0
    assert watch.secs == {"outer": 3.0, "inner": 30.0}
    assert watch.times == {"outer": 1, "inner": 2}


def test_a_stretch_that_fails_is_counted():
    clock = Clock()
    watch = Stopwatch(clock)
    try:
        with watch.at("work"):
            clock.now += 2.0
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    clock.now += 1.0
    with watch.at("more"):
        pass
    assert watch.secs == {"work": 2.0, "more": 0.0}


def test_what_is_read_begins_again_and_adds_to_another():
    clock = Clock()
    watch, other = Stopwatch(clock), Stopwatch(clock)
    for secs in (1.0, 2.0):
        with watch.at("train"):
            clock.now += secs
        other.add(watch.read())
    assert watch.secs == {} and other.secs == {"train": 3.0} and other.times == {"train": 2}


def test_methods_are_watched_and_the_rest_is_the_objects_own():
    class Learner:
        size = 3

        def train(self, count, twice=False):
            clock.now += count
            return count * (2 if twice else 1)

        def other(self):
            clock.now += 50
            return self

    clock, learner = Clock(), Learner()
    watch = Stopwatch(clock)
    made = watched(learner, watch, train="work")
    assert made.train(4, twice=True) == 8 and made.train(1) == 1 and made.size == 3
    assert made.other() is learner
    assert watch.secs == {"work": 5.0} and watch.times == {"work": 2}
    assert watched(learner, None, train="work") is learner
