"""A Redis for the tests, and brokers that share it."""

from collections.abc import Iterator

import pytest

from tests.redis.server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that no test ends; tests use prefixes of their own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def mortal_redis(tmp_path: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One of the test's own, whose writes outlive it."""
    with RedisServer(tmp_path / "redis", is_durable=True) as server:
        yield server
