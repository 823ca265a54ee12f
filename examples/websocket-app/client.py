"""Says something through Arriero, and prints the answer.

usage: client.py URL WORDS        (pip install websockets)
"""

import sys

from websockets.sync.client import connect

with connect(sys.argv[1]) as socket:
    socket.send(sys.argv[2])
    print(socket.recv())
