"""A server of `websockets` in a thread, for what drives a server from this one."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from websockets.sync.server import ServerConnection, serve


@contextlib.contextmanager
def serving_in_a_thread(converse: Callable[[ServerConnection], None]) -> Iterator[int]:
    """Have *converse* speak with each client, uncompressed; gives the port."""
    with serve(converse, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()
