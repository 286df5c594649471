"""The link to Redis on a real cluster and behind real Sentinels."""

import asyncio
import time
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from redis.crc import key_slot

from service.limits.config import Window
from service.limits.permits import Permits
from service.limits.windows import RedisWindows
from service.settings import Settings
from sessions.address import RedisAddress
from sessions.config import RedisConfig
from sessions.errors import LiveStateUnavailableError
from sessions.keys import reply_key
from sessions.link import RedisLink
from sessions.logs import RedisReplyLog
from sessions.replies import ANYTHING, EMPTY, Appended, Event, EventId, Log
from sessions.servers import Call
from sessions.state import Buffer
from sessions.store import RedisLiveState
from tests.clusters.valkeys import PASSWORD, ValkeyCluster, ValkeySentinels, until

FAILOVER_SECONDS = 20.0
PATIENCE = 3.0
"""Of a link, where a busy machine's own slowness is not what is tried."""


def log() -> Log:
    return Log(uuid4(), uuid4(), uuid4())


def delta(epoch: int, n: int) -> Event:
    return Event(EventId(epoch, n), "reply.delta", b'{"text":"x"}')


def slot_of(log: Log) -> int:
    return key_slot(reply_key(log.conversation_id, log.turn_id).encode())


async def written(replies: RedisReplyLog, logs: list[Log], count: int) -> None:
    """Write in all at once, as the replies of one process do."""

    async def write(one: Log) -> None:
        for n in range(count):
            assert await replies.append(one, f"1-{n - 1}" if n else EMPTY, [delta(1, n)]) is Appended.OK

    await asyncio.gather(*(write(one) for one in logs))


async def test_replies_of_many_slots_are_written_and_followed_at_once(cluster: ValkeyCluster) -> None:
    link = RedisLink(RedisConfig(cluster.url, timeout=PATIENCE))
    replies, logs = RedisReplyLog(link), [log() for _ in range(60)]
    await written(replies, logs, 10)
    assert [len(found) for found in await replies.read_many([(one, None) for one in logs])] == [10] * 60  # type: ignore[arg-type]
    keys = [int(node.ask("DBSIZE")) for node in cluster.owners()]
    assert len(keys) == 3
    assert min(keys) > 0, "all replies went to one server"
    for one in logs:
        await replies.drop(one)
    await link.aclose()


async def test_all_that_uses_redis_works_across_slots(cluster: ValkeyCluster) -> None:
    link = RedisLink(RedisConfig(cluster.url, timeout=PATIENCE))
    live = RedisLiveState(link)
    for owner in [uuid4() for _ in range(20)]:
        kept = Buffer(owner, uuid4(), None, "Mel", "", "UTC", "", 0, ())
        await live.save(None, kept)
        assert (await live.load(owner, kept.conversation_id)).buffer == kept
        assert await live.forget(kept.conversation_id)
    windows = [Window("turn", 3, 60)]
    shared = RedisWindows(link)
    holders = [(f"user:{uuid4()}", windows), (f"address:{uuid4()}", windows)]
    assert [(await shared.hit(holders))[0] for _ in range(4)] == [True, True, True, False]
    here, elsewhere = Permits(link), Permits(link)
    async with here.hold([("user:a", 1), ("address:b", 1), ("address:c", 1)]):
        with pytest.raises(Exception, match="Too many replies"):
            async with elsewhere.hold([("user:x", 1), ("address:b", 1)]):
                pass
    async with elsewhere.hold([("user:a", 1), ("address:b", 1)]):
        pass
    await here.aclose()
    await elsewhere.aclose()
    assert await link.ping()
    await link.aclose()


async def test_a_slot_is_moved_under_a_reply(cluster: ValkeyCluster) -> None:
    """MIGRATING answers ASK, and a moved slot MOVED: neither is an error, nothing is applied twice."""
    link = RedisLink(RedisConfig(cluster.url, timeout=PATIENCE))
    replies, one = RedisReplyLog(link), log()
    neighbour = Log(one.owner, one.conversation_id, uuid4())
    await written(replies, [one], 3)
    slot, key = slot_of(one), reply_key(one.conversation_id, one.turn_id)
    source = next(node for node in cluster.owners() if node.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
    target = next(node for node in cluster.owners() if node is not source)
    ids = {node.seen_as: node.ask("CLUSTER", "MYID") for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.seen_as])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.seen_as])
    # a new log of that slot begins at the importing server, many at once, over more connections than one
    await asyncio.gather(
        *(written(replies, [Log(one.owner, one.conversation_id, uuid4())], 3) for _ in range(8)),
        written(replies, [neighbour], 5),
    )
    source.ask("MIGRATE", "127.0.0.1", target.server.port, key, 0, 2000, "AUTH", PASSWORD)
    assert await replies.append(one, "1-2", [delta(1, 3)]) is Appended.OK
    for node in (target, source, *cluster.owners()):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.seen_as])
    assert await replies.append(one, "1-3", [delta(1, 4)]) is Appended.OK
    assert [str(event.id) for event in await replies.read(one)] == [f"1-{n}" for n in range(5)]
    assert len(await replies.read(neighbour)) == 5
    await link.aclose()


async def test_scripts_are_forgotten_everywhere(cluster: ValkeyCluster) -> None:
    link = RedisLink(RedisConfig(cluster.url, timeout=PATIENCE))
    replies, logs = RedisReplyLog(link), [log() for _ in range(12)]
    await written(replies, logs, 1)
    for node in cluster.nodes:
        node.ask("SCRIPT", "FLUSH")
    answers = [await replies.append(one, "1-0", [delta(1, 1)]) for one in logs]
    assert answers == [Appended.OK] * 12
    assert [len(await replies.read(one)) for one in logs] == [2] * 12
    await link.aclose()


async def recovered(replies: RedisReplyLog, logs: list[Log], epoch: int) -> float:
    """Seconds until every reply can be written again, whatever was lost of it."""
    began = time.monotonic()
    while True:
        answers = await asyncio.gather(
            *(replies.append(one, ANYTHING, [delta(epoch, 0)]) for one in logs), return_exceptions=True
        )
        if all(answer is Appended.OK for answer in answers):
            return time.monotonic() - began
        assert all(isinstance(answer, LiveStateUnavailableError) or answer is Appended.OK for answer in answers)
        assert time.monotonic() - began < FAILOVER_SECONDS, answers
        await asyncio.sleep(0.1)


async def test_a_primary_of_a_cluster_dies_and_the_others_go_on(cluster: ValkeyCluster) -> None:
    """While a replica takes over, only its own third waits: no reply on another server, and no follower of one."""
    link = RedisLink(RedisConfig(cluster.url, timeout=PATIENCE))
    replies, logs = RedisReplyLog(link), [log() for _ in range(60)]
    await written(replies, logs, 2)
    victim = cluster.owners()[0]
    theirs = {one for one in logs if replies.shard(one) == ("127.0.0.1", victim.seen_as)}
    others = [one for one in logs if one not in theirs]
    assert theirs
    assert others
    victim.server.kill()
    slowest = 0.0
    for n in range(2, 8):
        began = time.monotonic()
        appended = asyncio.gather(*(replies.append(one, f"1-{n - 1}", [delta(1, n)]) for one in others))
        lost = asyncio.gather(
            *(replies.append(one, f"1-{n - 1}", [delta(1, n)]) for one in theirs), return_exceptions=True
        )
        assert await appended == [Appended.OK] * len(others)
        slowest = max(slowest, time.monotonic() - began)
        assert all(isinstance(answer, LiveStateUnavailableError) for answer in await lost)
        assert link.reaches(reply_key(others[0].conversation_id, others[0].turn_id))
        assert not link.reaches(reply_key(next(iter(theirs)).conversation_id, next(iter(theirs)).turn_id))
    seconds = await recovered(replies, logs, 2)
    print(
        f"\ncluster: a replica took over and was found after {seconds:.1f} s; the others' slowest append {slowest:.3f} s"
    )
    victim.server.start()  # in this thread: the kernel ends a server with the thread that started it
    await asyncio.to_thread(cluster.healthy)
    await link.aclose()


async def test_a_hung_primary_holds_up_its_own_third_alone(cluster: ValkeyCluster) -> None:
    link = RedisLink(RedisConfig(cluster.url, timeout=1.0))
    replies, logs = RedisReplyLog(link), [log() for _ in range(30)]
    await written(replies, logs, 1)
    victim = cluster.owners()[0]
    others = [one for one in logs if replies.shard(one) != ("127.0.0.1", victim.seen_as)]
    hung = next(one for one in logs if one not in others)
    victim.signal(19)
    try:
        stuck = asyncio.create_task(replies.append(hung, "1-0", [delta(1, 1)]))
        began = time.monotonic()
        await asyncio.gather(*(replies.append(one, "1-0", [delta(1, 1)]) for one in others))
        seconds = time.monotonic() - began
        assert not stuck.done(), "the hung server had answered by then: nothing was tried"
        with pytest.raises(LiveStateUnavailableError):
            await stuck
    finally:
        victim.signal(18)
    print(f"\n{len(others)} appends beside a hung primary: {seconds:.3f} s")
    await asyncio.to_thread(cluster.healthy)
    await link.aclose()


async def test_sentinels_name_another_primary(sentinels: ValkeySentinels) -> None:
    link = RedisLink(RedisConfig(sentinels.url(), timeout=PATIENCE))
    replies, logs = RedisReplyLog(link), [log() for _ in range(30)]
    await written(replies, logs, 5)
    assert await link.ping()
    victim = sentinels.owners()[0]
    victim.server.kill()
    with pytest.raises(LiveStateUnavailableError):
        await replies.append(logs[0], "1-4", [delta(1, 5)])
    seconds = await recovered(replies, logs, 2)
    assert sentinels.owners()[0] is not victim
    print(f"\nsentinel: another primary was named and found after {seconds:.1f} s")
    victim.server.start()  # in this thread: the kernel ends a server with the thread that started it
    await link.aclose()


@pytest.mark.slow
async def test_a_demoted_primary_is_left(sentinels: ValkeySentinels) -> None:
    """Pooled connections still lead to it: it refuses to write, and the next ones go to its successor."""
    await asyncio.to_thread(sentinels.healthy)
    link = RedisLink(RedisConfig(sentinels.url(), timeout=PATIENCE, rest=0.1))
    replies, one = RedisReplyLog(link), log()
    await written(replies, [one], 2)
    before = sentinels.owners()[0]
    sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", "companion")
    await asyncio.to_thread(until, "another primary", lambda: before not in sentinels.owners())
    await recovered(replies, [one], 2)
    await asyncio.to_thread(until, "one primary", lambda: len(sentinels.owners()) == 1)
    assert [str(event.id) for event in await replies.read(one)][-1] == "2-0"
    await link.aclose()


async def test_a_plain_address_of_a_cluster_is_away_and_says_why(cluster: ValkeyCluster) -> None:
    """REDIS_URL names one node as if it were all: two thirds of the keys are elsewhere."""
    link = RedisLink(RedisConfig(f"redis://:{PASSWORD}@127.0.0.1:{cluster.owners()[0].seen_as}/0"))
    refused = [answer for answer in await link.ask([_set(uuid4()) for _ in range(20)]) if isinstance(answer, Exception)]
    assert refused
    assert "redis+cluster" in str(refused[0])
    await link.aclose()


def _set(name: UUID) -> Call:
    return Call(f"x{{{name}}}", ("SET", f"x{{{name}}}", "1", "PX", 1000))


async def test_nobody_there(cluster: ValkeyCluster) -> None:
    link = RedisLink(RedisConfig("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout=0.2))
    with pytest.raises(LiveStateUnavailableError):
        await RedisReplyLog(link).append(log(), EMPTY, [delta(1, 0)])
    assert not await link.ping()
    await link.aclose()
    none = RedisLink(RedisConfig("redis+sentinel://127.0.0.1:1/companion", timeout=0.2))
    with pytest.raises(LiveStateUnavailableError):
        await RedisReplyLog(none).append(log(), EMPTY, [delta(1, 0)])
    await none.aclose()


def test_addresses() -> None:
    found = RedisAddress.parse("redis+cluster://ana:p%40ss@a:7000,b,[::1]:7002")
    assert (found.kind, found.hosts) == ("cluster", (("a", 7000), ("b", 6379), ("::1", 7002)))
    assert (found.options["username"], found.options["password"], found.options["ssl"]) == ("ana", "p@ss", False)
    found = RedisAddress.parse("rediss+sentinel://:secret@a,b:1/companion/2?sentinel_password=other")
    assert (found.hosts, found.service, found.options["db"]) == ((("a", 26379), ("b", 1)), "companion", 2)
    assert found.sentinel_options == {"password": "other", "ssl": True}
    assert RedisAddress.parse("redis://a/3").kind == "server"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://a",
        "redis+cluster://",
        "redis+cluster://a:x",
        "redis+cluster://a:99999",
        "redis+cluster://a/1",
        "redis+cluster://a?sentinel_password=x",
        "redis+sentinel://:secret@a",
        "redis+sentinel://:secret@a/name/x",
        "redis+sentinel://:secret@a/name?what=1",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        RedisAddress.parse(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"REDIS_URL": "redis+cluster://a:7000"}, "a queue can't be on a cluster: set DRAMATIQ_BROKER_URL"),
        ({"REDIS_URL": "redis://a", "DRAMATIQ_BROKER_URL": "redis+cluster://a"}, "a queue can't be on a cluster"),
        ({"REDIS_URL": "redis+sentinel://:secret@a"}, "REDIS_URL: redis+sentinel:// ends with the primary's name"),
        ({"DRAMATIQ_BROKER_URL": "localhost"}, "DRAMATIQ_BROKER_URL: it begins with redis://"),
    ],
)
def test_settings_that_can_t_work_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert told in str(refused.value)


def test_settings_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+cluster://a:7000,b:7000")
    monkeypatch.setenv("DRAMATIQ_BROKER_URL", "redis+sentinel://a,b,c/companion/1")
    monkeypatch.setenv("DATABASE_REPLICA_URLS", "postgresql://a/x, postgresql://b/x")
    chosen = Settings()
    assert chosen.replica_urls == ("postgresql://a/x", "postgresql://b/x")
    assert chosen.prepared is None
