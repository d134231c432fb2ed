"""Messages between the processes of a pool, their codec, the sockets and the configuration.

Imports neither Quart nor torch; it is the only code that the processes share.
"""

PROTOCOL_VERSION = 6
