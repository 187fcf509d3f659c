"""A peer of the bus: call, answer, publish, watch; on asyncio or for one thread that waits."""
