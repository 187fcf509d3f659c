"""Where documents are kept: SQLite, in a file or in memory.

`manor_config.revision` decides what a transaction means. There is no time to live in here: owner records
never expire, who is dead is judged by observers.
"""
