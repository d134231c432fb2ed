"""What the processes of a pool say to each other: messages, their codec and the sockets.

Imports neither Quart nor torch; it is the only thing that the processes share.
"""

PROTOCOL_VERSION = 2
