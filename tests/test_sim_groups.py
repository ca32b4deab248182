"""The simulated consumer group: even, sticky, cooperative; whoever is fenced learns it only by asking."""

from random import Random

from commonplace.sim.groups import Group

SESSION_MS = 6_000


def group(*members: str, partitions: int = 6) -> Group:
    made = Group(partitions, SESSION_MS)
    for member in members:
        made.join(member, 0)
    for member in members * 2:
        made.heartbeat(member, 0)
    return made


def held(made: Group) -> dict[str, int]:
    return {member: len(made.assignment(member)) for member in made.members}


def test_partitions_are_held_evenly_and_by_one_each() -> None:
    made = group("a", "b", "c", "d")
    assert sorted(held(made).values()) == [1, 1, 2, 2]
    assert set().union(*(made.assignment(m) for m in made.members)) == set(range(6))


def test_a_newcomer_gets_a_partition_only_when_its_holder_has_let_go() -> None:
    made = group("a", "b")
    before = made.assignment("a") | made.assignment("b")
    made.join("c", 0)
    made.heartbeat("c", 0)
    assert before == set(range(6))
    assert made.assignment("c") == set()
    made.heartbeat("a", 0)
    made.heartbeat("c", 0)
    assert held(made) == {"a": 2, "b": 3, "c": 1}
    made.heartbeat("b", 0)
    made.heartbeat("c", 0)
    assert held(made) == {"a": 2, "b": 2, "c": 2}


def test_only_what_must_move_moves() -> None:
    made = group("a", "b", "c")
    before = {member: made.assignment(member) for member in "ab"}
    made.leave("c")
    for member in "abab":
        made.heartbeat(member, 0)
    assert all(before[member] < made.assignment(member) for member in "ab")


def test_a_silent_member_is_fenced_after_its_session_and_its_partitions_are_free_at_once() -> None:
    made = group("a", "b")
    made.heartbeat("b", SESSION_MS + 1)
    assert made.expire(SESSION_MS) == []
    assert made.expire(SESSION_MS + 1) == ["a"]
    assert made.assignment("a") == set()
    assert not made.heartbeat("a", SESSION_MS + 2)
    made.heartbeat("b", SESSION_MS + 2)
    assert made.assignment("b") == set(range(6))


def test_a_commit_is_refused_from_the_fenced_and_from_who_has_not_heard_of_the_newest_generation() -> None:
    made = group("a", "b")
    zombie, generation = made.heard("a"), made.heard("b")
    made.heartbeat("b", SESSION_MS + 1)
    made.expire(SESSION_MS + 1)
    assert not made.commit("a", zombie, 0, 10)
    assert not made.commit("b", generation, 0, 10)
    made.heartbeat("b", SESSION_MS + 1)
    assert made.commit("b", made.heard("b"), 0, 7)
    assert (made.committed, made.heard("a")) == ({0: 7}, -1)


def test_after_any_coming_and_going_no_partition_has_two_holders_and_all_find_one() -> None:
    random = Random(4)
    for _ in range(200):
        made = Group(5, SESSION_MS)
        for now in range(0, 40_000, 1_000):
            if random.random() < 0.2:
                made.join(f"m{now}", now)
            elif random.random() < 0.1 and made.members:
                made.leave(random.choice(sorted(made.members)))
            for member in sorted(made.members):
                if random.random() < 0.4:
                    made.heartbeat(member, now)
            made.expire(now)
            holdings = [made.assignment(member) for member in made.members]
            assert sum(map(len, holdings)) == len(set().union(*holdings))
        made.join("last", 40_000)
        for _ in range(2):
            for member in sorted(made.members):
                made.heartbeat(member, 40_000)
        sizes = held(made).values()
        assert sum(sizes) == 5
        assert max(sizes) - min(sizes) <= 1
